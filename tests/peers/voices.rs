//! Recordings of people and what they say: ten of people reading (Debian's pocketsphinx-testdata: LibriVox and playing cards), a speech,
//! and a text of Beckett.

use std::{fs, path::Path};

use llmasos::observe::play::read_wav;
use llmasos_engine::audio::{
    Moonshine, Resampler,
    wer::{WordErrors, word_errors},
};

use crate::{
    alone,
    models::{folder, model, runtime},
    peer,
};

/// Pooled word error rate over all human clips, at most; the normalizer is that of `audio::wer`.
const WORD_ERROR_RATE_MAX: f64 = 0.04;
const JFK: &str = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country.";
const BECKETT: &str = "Ever tried. Ever failed. No matter. Try again. Fail again. Fail better.";

/// Lines of the form `<s> words </s> (clip)`.
fn transcripts(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let parse = |line: &str| {
        let (words, clip) = line.rsplit_once('(')?;
        let words = words.replace("<s>", "").replace("</s>", "");
        Some((
            clip.trim_end_matches(')').trim().to_owned(),
            words.trim().to_owned(),
        ))
    };
    text.lines().filter_map(parse).collect()
}

fn samples(path: &Path) -> Vec<f32> {
    let (rate_hz, pcm) = read_wav(path).unwrap();
    assert_eq!(rate_hz, 16_000, "{}", path.display());
    pcm.iter()
        .map(|sample| f32::from(*sample) / 32768.0)
        .collect()
}

/// At 16 kHz, whatever the file's rate is.
fn resampled(path: &Path) -> Vec<f32> {
    let (rate_hz, pcm) = read_wav(path).unwrap();
    let input: Vec<f32> = pcm
        .iter()
        .map(|sample| f32::from(*sample) / 32768.0)
        .collect();
    let (mut resampler, mut output) = (Resampler::new(rate_hz).unwrap(), vec![]);
    resampler.push(&input, &mut output).unwrap();
    resampler.flush(&mut output).unwrap();
    output
}

#[test]
fn people_are_understood() {
    let _alone = alone();
    let data = peer("speech").join("usr/share/pocketsphinx/test/data");
    let mut recogniser = Moonshine::load(&runtime(), &model("moonshine-tiny-en")).unwrap();
    let mut pooled = vec![];
    for (set, list) in [
        ("librivox", "transcription"),
        ("cards", "cards.transcription"),
    ] {
        let clips = transcripts(&data.join(set).join(list));
        assert_eq!(clips.len(), 5, "{set}: five recordings");
        for (clip, words) in clips {
            let heard = recogniser
                .transcribe(
                    &samples(&data.join(set).join(format!("{clip}.wav"))),
                    &|| true,
                )
                .unwrap();
            let errors = word_errors(&words, &heard.text);
            eprintln!(
                "{clip}: {} errors: {words:?} heard as {:?}",
                errors.errors(),
                heard.text
            );
            pooled.push(errors);
        }
    }
    for (path, words) in [
        (folder("human-speech").join("beckett.wav"), BECKETT),
        (peer("jfk.wav"), JFK),
    ] {
        let heard = recogniser.transcribe(&resampled(&path), &|| true).unwrap();
        let errors = word_errors(words, &heard.text);
        eprintln!(
            "{}: {} errors: {:?}",
            path.display(),
            errors.errors(),
            heard.text
        );
        pooled.push(errors);
    }
    let pooled: WordErrors = pooled.into_iter().sum();
    eprintln!(
        "{} errors in {} words",
        pooled.errors(),
        pooled.reference_words
    );
    assert!(pooled.reference_words >= 100, "all transcripts were read");
    assert!(
        pooled.rate() <= WORD_ERROR_RATE_MAX,
        "expected at most {WORD_ERROR_RATE_MAX}, found {:.3}",
        pooled.rate()
    );
}
