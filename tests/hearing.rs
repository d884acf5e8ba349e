//! Speech recognition on human voices and on the demo's clips.

use std::path::Path;

use llmasos::observe::play::read_wav;
use llmasos_engine::audio::{
    EndpointOptions, Heard, Listener, Moonshine, Resampler, TranscriptEnd, VoiceActivity,
    wer::{WordErrors, word_errors},
};

use crate::models::{folder, model, runtime};

/// Pooled word error rate over the human clips, at most; the normalizer is that of `audio::wer`.
const WORD_ERROR_RATE_MAX: f64 = 0.04;

const BECKETT: &str = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.";
const TWO_CITIES: &str = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of \
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light, it was the season of \
Darkness, it was the spring of hope, it was the winter of despair, we had everything before us, we had nothing before us, we were \
all going direct to Heaven, we were all going direct the other way, in short, the period was so far like the present period, that \
some of its noisiest authorities insisted on its being received, for good or for evil, in the superlative degree of comparison only.";

fn samples(path: &Path) -> Vec<f32> {
    let (rate_hz, pcm) = read_wav(path).unwrap();
    let input: Vec<f32> = pcm
        .iter()
        .map(|sample| f32::from(*sample) / 32768.0)
        .collect();
    let (mut resampler, mut output) = (Resampler::new(rate_hz).unwrap(), Vec::new());
    resampler.push(&input, &mut output).unwrap();
    resampler.flush(&mut output).unwrap();
    output
}

fn listen(samples: &[f32]) -> Vec<Vec<f32>> {
    let activity = VoiceActivity::load(&runtime(), &model("silero-vad")).unwrap();
    let mut listener = Listener::new(activity, &EndpointOptions::default()).unwrap();
    let mut heard = Vec::new();
    for chunk in samples.chunks(320) {
        listener.push(chunk, &mut heard).unwrap();
    }
    heard.extend(listener.finish());
    let utterance = |heard| match heard {
        Heard::Utterance(utterance) => Some(utterance.samples),
        Heard::Started { .. } => None,
    };
    heard.into_iter().filter_map(utterance).collect()
}

#[test]
fn human_voices_are_understood() {
    let mut recogniser = Moonshine::load(&runtime(), &model("moonshine-tiny-en")).unwrap();
    let clips = folder("human-speech");
    let whole = recogniser
        .transcribe(&samples(&clips.join("beckett.wav")), &|| true)
        .unwrap();
    assert_eq!(whole.end, TranscriptEnd::EndOfText);
    assert!(whole.confidence >= 0.8, "{}", whole.confidence);
    // The long clip is cut by the voice-activity model, as a microphone's stream is.
    let parts: Vec<String> = listen(&samples(&clips.join("two_cities.wav")))
        .iter()
        .map(|utterance| recogniser.transcribe(utterance, &|| true).unwrap().text)
        .collect();
    let pooled: WordErrors = [
        word_errors(BECKETT, &whole.text),
        word_errors(TWO_CITIES, &parts.join(" ")),
    ]
    .into_iter()
    .sum();
    eprintln!(
        "{} errors in {} words",
        pooled.errors(),
        pooled.reference_words
    );
    assert!(pooled.reference_words > 120, "the whole texts are compared");
    assert!(
        pooled.rate() <= WORD_ERROR_RATE_MAX,
        "expected at most {WORD_ERROR_RATE_MAX}, found {:.3}: {parts:?}",
        pooled.rate()
    );
}

#[test]
fn the_demos_commands_are_heard_word_for_word() {
    let mut recogniser = Moonshine::load(&runtime(), &model("moonshine-tiny-en")).unwrap();
    for (clip, words) in [
        ("slow-down", "please slow down"),
        ("dont-stop", "don't stop"),
        ("go-faster", "go faster"),
        ("pull-over", "can you pull over"),
        ("stop", "stop the car"),
        ("lane-left", "change to the left lane"),
    ] {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("launch/demo/synthetic/{clip}.wav"));
        let utterances = listen(&samples(&path));
        assert_eq!(utterances.len(), 1, "{clip}: one utterance");
        let text = recogniser
            .transcribe(&utterances[0], &|| true)
            .unwrap()
            .text;
        assert_eq!(
            word_errors(words, &text).errors(),
            0,
            "{clip}: expected {words:?}, found {text:?}"
        );
    }
}

#[test]
fn noise_is_not_speech() {
    // A linear congruential generator: the same noise on every machine.
    let mut state = 1u32;
    let noise: Vec<f32> = (0..48_000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 * 0.04 - 0.04
        })
        .collect();
    assert!(listen(&noise).is_empty());
}
