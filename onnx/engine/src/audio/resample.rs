//! Any sample rate to 16 kHz, in a stream: push what came, take what is ready, nothing is lost between chunks.
//!
//! A windowed-sinc filter (rubato) rather than an FFT one: its delay depends on the filter alone and not on how the two rates
//! divide each other (an FFT resampler needs a whole second of 47 999 Hz before it can answer), and one code path serves every
//! rate. The filter's start-up delay is cut off, so output sample n lies at input time n / 16 000 s (to half a sample, 31 us) and
//! stamps stay right.

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Async, FixedAsync, Indexing, Resampler as _, SincInterpolationParameters, WindowFunction,
};

use super::{AudioError, MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ, SAMPLE_RATE_HZ};

/// Filter length in samples of the slower side. With the squared Blackman-Harris window the pass band reaches to about 90 % of
/// the Nyquist frequency (7.2 kHz at 16 kHz out) and aliases stay below -120 dB; half of it is the delay: 4 ms at 16 kHz.
const TAPS_AT_SLOWER_RATE: usize = 128;
/// Chunks of the library's inner loop a second: 10 ms of buffering at most.
const CHUNKS_PER_SECOND: u32 = 100;

/// A streaming resampler of one channel to [`SAMPLE_RATE_HZ`]; free of cost when the rate is that already.
pub struct Resampler {
    rate_hz: u32,
    /// Absent when input and output rate are equal.
    filter: Option<Filter>,
}

struct Filter {
    inner: Async<f32>,
    /// Input that does not fill a chunk yet.
    pending: Vec<f32>,
    /// One output chunk.
    chunk: Vec<f32>,
    /// The filter's start-up delay, output samples.
    delay: usize,
    /// How many of them are still to be dropped.
    skip: usize,
    /// Input samples taken, to know how many output samples a flush owes.
    taken: u64,
    /// Output samples given.
    given: u64,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler")
            .field("rate_hz", &self.rate_hz)
            .field("delay_ms", &self.delay_ms())
            .finish()
    }
}

impl Resampler {
    /// Prepares the filter for an input rate in [`MIN_SAMPLE_RATE_HZ`]..=[`MAX_SAMPLE_RATE_HZ`].
    ///
    /// # Errors
    /// [`AudioError::SampleRate`], [`AudioError::Resample`].
    pub fn new(rate_hz: u32) -> Result<Resampler, AudioError> {
        if !(MIN_SAMPLE_RATE_HZ..=MAX_SAMPLE_RATE_HZ).contains(&rate_hz) {
            return Err(AudioError::SampleRate {
                found: rate_hz,
                min: MIN_SAMPLE_RATE_HZ,
                max: MAX_SAMPLE_RATE_HZ,
            });
        }
        if rate_hz == SAMPLE_RATE_HZ {
            return Ok(Resampler {
                rate_hz,
                filter: None,
            });
        }
        // The filter runs at the input rate, so its length grows with it to keep the same time span.
        let taps = TAPS_AT_SLOWER_RATE * rate_hz.div_ceil(SAMPLE_RATE_HZ) as usize;
        let parameters = SincInterpolationParameters::new(taps, WindowFunction::BlackmanHarris2);
        let ratio = f64::from(SAMPLE_RATE_HZ) / f64::from(rate_hz);
        let chunk = (rate_hz / CHUNKS_PER_SECOND) as usize;
        let inner = Async::<f32>::new_sinc(
            ratio,
            1.0,
            &parameters,
            chunk,
            1, /* channel */
            FixedAsync::Input,
        )
        .map_err(|error| AudioError::Resample {
            rate_hz,
            reason: error.to_string(),
        })?;
        let chunk = vec![0.0; inner.output_frames_max()];
        // Half the filter; the first output lies one step after the first input, which the library's own number leaves out.
        let delay = (taps as f64 * ratio / 2.0 - 1.0).round() as usize;
        Ok(Resampler {
            rate_hz,
            filter: Some(Filter {
                inner,
                pending: Vec::new(),
                chunk,
                delay,
                skip: delay,
                taken: 0,
                given: 0,
            }),
        })
    }

    /// The input rate.
    #[must_use]
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// How far the output lags behind the input at most, ms: filter delay plus one unfilled chunk.
    #[must_use]
    pub fn delay_ms(&self) -> f64 {
        self.filter.as_ref().map_or(0.0, |filter| {
            let filter_ms = filter.delay as f64 * 1e3 / f64::from(SAMPLE_RATE_HZ);
            filter_ms + 1e3 / f64::from(CHUNKS_PER_SECOND)
        })
    }

    /// Takes input and appends to `output` whatever is ready.
    ///
    /// # Errors
    /// [`AudioError::Resample`].
    pub fn push(&mut self, input: &[f32], output: &mut Vec<f32>) -> Result<(), AudioError> {
        let Some(filter) = &mut self.filter else {
            output.extend_from_slice(input);
            return Ok(());
        };
        filter
            .push(input, output)
            .map_err(|reason| AudioError::Resample {
                rate_hz: self.rate_hz,
                reason,
            })
    }

    /// Appends what is still inside the filter, so that input of n samples has given round(n * 16000 / rate) in total, and
    /// starts anew.
    ///
    /// # Errors
    /// [`AudioError::Resample`].
    pub fn flush(&mut self, output: &mut Vec<f32>) -> Result<(), AudioError> {
        let Some(filter) = &mut self.filter else {
            return Ok(());
        };
        let due = (filter.taken as f64 * filter.inner.resample_ratio()).round() as u64;
        let result = filter
            .flush(due, output)
            .map_err(|reason| AudioError::Resample {
                rate_hz: self.rate_hz,
                reason,
            });
        filter.reset();
        result
    }

    /// Forgets the past without giving it out.
    pub fn reset(&mut self) {
        if let Some(filter) = &mut self.filter {
            filter.reset();
        }
    }
}

impl Filter {
    fn push(&mut self, mut input: &[f32], output: &mut Vec<f32>) -> Result<(), String> {
        self.taken += input.len() as u64;
        if !self.pending.is_empty() {
            let missing = self
                .inner
                .input_frames_next()
                .saturating_sub(self.pending.len())
                .min(input.len());
            let (head, rest) = input.split_at(missing);
            self.pending.extend_from_slice(head);
            input = rest;
            if self.pending.len() < self.inner.input_frames_next() {
                return Ok(());
            }
            let pending = std::mem::take(&mut self.pending);
            let result = self.convert(&pending, None, output);
            // Keep the allocation for the next unfilled chunk.
            self.pending = pending;
            self.pending.clear();
            result?;
        }
        while input.len() >= self.inner.input_frames_next() {
            let (chunk, rest) = input.split_at(self.inner.input_frames_next());
            self.convert(chunk, None, output)?;
            input = rest;
        }
        self.pending.extend_from_slice(input);
        Ok(())
    }

    fn flush(&mut self, due: u64, output: &mut Vec<f32>) -> Result<(), String> {
        let mut valid = self.pending.len();
        let mut tail = std::mem::take(&mut self.pending);
        while self.given < due {
            let before = (self.given, self.skip);
            tail.resize(self.inner.input_frames_next(), 0.0);
            self.convert(&tail, Some(valid), output)?;
            // After the last real samples only silence is pushed through, until the filter has given everything.
            (valid, tail) = (0, Vec::new());
            if (self.given, self.skip) == before {
                return Err(format!(
                    "the filter stopped at {} of {due} samples",
                    self.given
                ));
            }
        }
        let surplus = (self.given - due) as usize;
        output.truncate(output.len().saturating_sub(surplus));
        Ok(())
    }

    /// One chunk through the library; `valid` says how many of its samples are real.
    fn convert(
        &mut self,
        chunk: &[f32],
        valid: Option<usize>,
        output: &mut Vec<f32>,
    ) -> Result<(), String> {
        let input =
            SequentialSlice::new(chunk, 1, chunk.len()).map_err(|error| error.to_string())?;
        let frames = self.chunk.len();
        let mut out = SequentialSlice::new_mut(&mut self.chunk, 1, frames)
            .map_err(|error| error.to_string())?;
        let indexing = valid.map(|frames| Indexing::new().partial_len(frames));
        let (_, written) = self
            .inner
            .process_into_buffer(&input, &mut out, indexing.as_ref())
            .map_err(|error| error.to_string())?;
        let skipped = self.skip.min(written);
        self.skip -= skipped;
        self.given += (written - skipped) as u64;
        output.extend(self.chunk.iter().take(written).skip(skipped));
        Ok(())
    }

    fn reset(&mut self) {
        self.inner.reset();
        self.pending.clear();
        (self.skip, self.taken, self.given) = (self.delay, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    fn tone(rate_hz: u32, frequency_hz: f32, samples: usize) -> Vec<f32> {
        (0..samples)
            .map(|n| (TAU * frequency_hz * n as f32 / rate_hz as f32).sin())
            .collect()
    }

    fn resample(rate_hz: u32, input: &[f32], piece: usize) -> Vec<f32> {
        let mut resampler = Resampler::new(rate_hz).unwrap();
        let mut output = Vec::new();
        for part in input.chunks(piece) {
            resampler.push(part, &mut output).unwrap();
        }
        resampler.flush(&mut output).unwrap();
        output
    }

    fn rms(samples: &[f32]) -> f32 {
        (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
    }

    /// The awkward ones are primes and near-primes, where an FFT resampler needs a second of buffer.
    const RATES: [u32; 9] = [
        4_000, 8_000, 11_025, 16_000, 22_050, 44_100, 47_999, 48_000, 192_000,
    ];

    /// Level, and how many samples a 440 Hz tone at 16 kHz lags behind its ideal, by correlation with sine and cosine.
    fn level_and_lag(samples: &[f32], first: usize) -> (f32, f32) {
        let step = TAU * 440.0 / 16_000.0;
        let (mut sine, mut cosine) = (0.0, 0.0);
        for (index, sample) in samples.iter().enumerate() {
            let phase = step * (first + index) as f32;
            sine += sample * phase.sin();
            cosine += sample * phase.cos();
        }
        (
            2.0 * sine.hypot(cosine) / samples.len() as f32,
            -cosine.atan2(sine) / step,
        )
    }

    #[test]
    fn a_tone_keeps_its_time_its_level_and_its_length() {
        for rate in RATES {
            let input = tone(rate, 440.0, rate as usize / 2 + 7);
            let output = resample(rate, &input, 333);
            let due = (input.len() as f64 * 16_000.0 / f64::from(rate)).round() as usize;
            assert_eq!(output.len(), due, "{rate} Hz");
            // Away from the edges, where the tone starts from nothing; 4 000 samples are 110 whole periods.
            let (level, lag) = level_and_lag(&output[800..4_800], 800);
            assert!(
                (level - 1.0).abs() < 2e-3 && lag.abs() < 0.52,
                "{rate} Hz: level {level}, lag {lag} samples"
            );
        }
    }

    #[test]
    fn what_does_not_fit_under_8_khz_is_removed() {
        for (rate, frequency) in [
            (48_000, 10_000.0),
            (44_100, 15_000.0),
            (192_000, 40_000.0),
            (22_050, 10_500.0),
        ] {
            let output = resample(rate, &tone(rate, frequency, rate as usize / 4), 480);
            let level = rms(&output[400..output.len() - 400]);
            assert!(
                level < 1e-3,
                "{frequency} Hz at {rate} Hz came through at {level}"
            );
        }
    }

    #[test]
    fn speech_band_passes() {
        for rate in [44_100, 48_000] {
            let output = resample(rate, &tone(rate, 6_500.0, rate as usize / 4), 480);
            let level = rms(&output[400..output.len() - 400]);
            assert!(
                (level - std::f32::consts::FRAC_1_SQRT_2).abs() < 0.02,
                "6.5 kHz at {rate} Hz: {level}"
            );
        }
    }

    #[test]
    fn the_cut_into_chunks_does_not_matter() {
        let input = tone(44_100, 300.0, 10_000);
        let whole = resample(44_100, &input, usize::MAX);
        for piece in [1, 7, 441, 442, 4_096] {
            assert_eq!(resample(44_100, &input, piece), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn a_flushed_resampler_starts_anew() {
        let mut resampler = Resampler::new(48_000).unwrap();
        let input = tone(48_000, 300.0, 5_000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for output in [&mut first, &mut second] {
            resampler.push(&input, output).unwrap();
            resampler.flush(output).unwrap();
        }
        assert_eq!(first, second);
        let mut nothing = Vec::new();
        resampler.flush(&mut nothing).unwrap();
        assert!(nothing.is_empty(), "an empty stream gives nothing");
    }

    #[test]
    fn the_delay_is_small_and_rates_are_limited() {
        for rate in RATES {
            assert!(
                Resampler::new(rate).unwrap().delay_ms() < 27.0,
                "{:?}",
                Resampler::new(rate)
            );
        }
        assert_eq!(Resampler::new(16_000).unwrap().delay_ms(), 0.0);
        for rate in [0, 3_999, 192_001, u32::MAX] {
            assert!(
                matches!(Resampler::new(rate), Err(AudioError::SampleRate { .. })),
                "{rate}"
            );
        }
    }
}
