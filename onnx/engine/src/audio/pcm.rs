//! PCM from the bus (any integer or float format, any channel count) becomes mono `f32` in [-1, 1].
//!
//! Microphone drivers disagree about everything except that samples are interleaved, and both ROS packages named
//! `audio_common_msgs` describe their payload differently: one by PortAudio codes with a typed array for each code, the other
//! by a GStreamer name and raw bytes. Both end here as [`Samples`] plus a [`PcmSpec`], so that the rest of the crate knows one
//! form only. A chunk is taken whole or refused whole: half a chunk would shift every later time stamp.

use super::AudioError;

/// Lowest sample rate that still holds speech: telephone speech is 8 kHz, half of it is the floor.
pub const MIN_SAMPLE_RATE_HZ: u32 = 4_000;
/// Highest sample rate of any sound card in use.
pub const MAX_SAMPLE_RATE_HZ: u32 = 192_000;
/// Most channels of one microphone message; larger arrays send beams.
pub const MAX_CHANNELS: u32 = 16;
/// Longest sound in one message, seconds. A live driver sends 10 to 100 ms; a file read at once may be a minute.
pub const MAX_CHUNK_SECONDS: usize = 60;
/// Longest format name kept in an error message.
const MAX_NAME_IN_ERROR: usize = 32;

/// How one sample is stored. Integer formats are scaled by their full range, so that -2^(bits-1) becomes -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleFormat {
    /// 8 bit, zero at 128.
    U8,
    /// 8 bit, signed.
    S8,
    /// 16 bit, little endian.
    S16Le,
    /// 16 bit, big endian.
    S16Be,
    /// 24 bit in three bytes, little endian.
    S24Le,
    /// 32 bit, little endian.
    S32Le,
    /// IEEE 754 single precision, little endian.
    F32Le,
}

impl SampleFormat {
    /// The format behind a PortAudio code, as in the `format` field of the `audio_common_msgs/AudioInfo` that has one.
    ///
    /// # Errors
    /// [`AudioError::Format`] for any other code.
    pub fn from_portaudio(code: i32) -> Result<SampleFormat, AudioError> {
        // portaudio.h: paFloat32 1, paInt32 2, paInt24 4, paInt16 8, paInt8 16, paUInt8 32.
        match code {
            1 => Ok(SampleFormat::F32Le),
            2 => Ok(SampleFormat::S32Le),
            4 => Ok(SampleFormat::S24Le),
            8 => Ok(SampleFormat::S16Le),
            16 => Ok(SampleFormat::S8),
            32 => Ok(SampleFormat::U8),
            other => Err(AudioError::Format {
                found: other.to_string(),
                expected: "1 (float32), 2 (int32), 4 (int24), 8 (int16), 16 (int8) or 32 (uint8)",
            }),
        }
    }

    /// The format behind a GStreamer name (`S16LE`, `F32LE`, ..), as in the `sample_format` field of the other
    /// `audio_common_msgs/AudioInfo`; case does not matter.
    ///
    /// # Errors
    /// [`AudioError::Format`] for any other name.
    pub fn from_name(name: &str) -> Result<SampleFormat, AudioError> {
        const NAMES: [(&str, SampleFormat); 7] = [
            ("U8", SampleFormat::U8),
            ("S8", SampleFormat::S8),
            ("S16LE", SampleFormat::S16Le),
            ("S16BE", SampleFormat::S16Be),
            ("S24LE", SampleFormat::S24Le),
            ("S32LE", SampleFormat::S32Le),
            ("F32LE", SampleFormat::F32Le),
        ];
        NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, format)| *format)
            .ok_or_else(|| AudioError::Format {
                found: name.chars().take(MAX_NAME_IN_ERROR).collect(),
                expected: "U8, S8, S16LE, S16BE, S24LE, S32LE or F32LE",
            })
    }

    /// Bytes of one sample.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            SampleFormat::U8 | SampleFormat::S8 => 1,
            SampleFormat::S16Le | SampleFormat::S16Be => 2,
            SampleFormat::S24Le => 3,
            SampleFormat::S32Le | SampleFormat::F32Le => 4,
        }
    }
}

/// Interleaved samples as a message holds them: bytes with a format, or an array that is typed already.
#[derive(Debug, Clone, Copy)]
pub enum Samples<'a> {
    /// Raw bytes of the given format.
    Bytes(SampleFormat, &'a [u8]),
    /// Unsigned 8 bit, zero at 128.
    U8(&'a [u8]),
    /// Signed 8 bit.
    I8(&'a [i8]),
    /// Signed 16 bit.
    I16(&'a [i16]),
    /// Signed 32 bit.
    I32(&'a [i32]),
    /// Float, nominal range [-1, 1].
    F32(&'a [f32]),
}

/// Rate and channel count that passed the limits; the only way in is [`PcmSpec::new`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcmSpec {
    sample_rate_hz: u32,
    channels: u32,
}

impl PcmSpec {
    /// Checks rate ([`MIN_SAMPLE_RATE_HZ`]..=[`MAX_SAMPLE_RATE_HZ`]) and channels (1..=[`MAX_CHANNELS`]).
    ///
    /// # Errors
    /// [`AudioError::SampleRate`], [`AudioError::Channels`].
    pub fn new(sample_rate_hz: u32, channels: u32) -> Result<PcmSpec, AudioError> {
        if !(MIN_SAMPLE_RATE_HZ..=MAX_SAMPLE_RATE_HZ).contains(&sample_rate_hz) {
            return Err(AudioError::SampleRate {
                found: sample_rate_hz,
                min: MIN_SAMPLE_RATE_HZ,
                max: MAX_SAMPLE_RATE_HZ,
            });
        }
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(AudioError::Channels {
                found: channels,
                max: MAX_CHANNELS,
            });
        }
        Ok(PcmSpec {
            sample_rate_hz,
            channels,
        })
    }

    /// Samples per second of one channel.
    #[must_use]
    pub fn sample_rate_hz(self) -> u32 {
        self.sample_rate_hz
    }

    /// Interleaved channels.
    #[must_use]
    pub fn channels(self) -> u32 {
        self.channels
    }

    /// Appends the mean of the channels of every frame to `mono`; returns the number of frames.
    ///
    /// Float samples outside [-1, 1] are clamped first, as a sound card would. An empty chunk is no error.
    ///
    /// # Errors
    /// [`AudioError::PartialFrame`], [`AudioError::ChunkTooLong`], [`AudioError::NotFinite`]; `mono` is unchanged then.
    pub fn to_mono(self, samples: Samples<'_>, mono: &mut Vec<f32>) -> Result<usize, AudioError> {
        match samples {
            Samples::U8(all) => self.mix(all, 1, from_u8, mono),
            Samples::I8(all) => self.mix(all, 1, |s| f32::from(s) / 128.0, mono),
            Samples::I16(all) => self.mix(all, 2, from_i16, mono),
            Samples::I32(all) => self.mix(all, 4, from_i32, mono),
            Samples::F32(all) => {
                refuse_non_finite(all.iter().copied())?;
                self.mix(all, 4, |s| s.clamp(-1.0, 1.0), mono)
            }
            Samples::Bytes(format, bytes) => self.bytes_to_mono(format, bytes, mono),
        }
    }

    fn bytes_to_mono(
        self,
        format: SampleFormat,
        bytes: &[u8],
        mono: &mut Vec<f32>,
    ) -> Result<usize, AudioError> {
        match format {
            SampleFormat::U8 => self.mix(bytes, 1, from_u8, mono),
            SampleFormat::S8 => self.mix(
                bytes,
                1,
                |b| f32::from(i8::from_ne_bytes([b])) / 128.0,
                mono,
            ),
            SampleFormat::S16Le => self.mix(
                words(bytes, self)?,
                2,
                |b| from_i16(i16::from_le_bytes(b)),
                mono,
            ),
            SampleFormat::S16Be => self.mix(
                words(bytes, self)?,
                2,
                |b| from_i16(i16::from_be_bytes(b)),
                mono,
            ),
            SampleFormat::S24Le => {
                // The three bytes go to the top of an i32: sign and scale then come out of the 32-bit case.
                self.mix(
                    words(bytes, self)?,
                    3,
                    |[a, b, c]| from_i32(i32::from_le_bytes([0, a, b, c])),
                    mono,
                )
            }
            SampleFormat::S32Le => self.mix(
                words(bytes, self)?,
                4,
                |b| from_i32(i32::from_le_bytes(b)),
                mono,
            ),
            SampleFormat::F32Le => {
                let all: &[[u8; 4]] = words(bytes, self)?;
                refuse_non_finite(all.iter().map(|b| f32::from_le_bytes(*b)))?;
                self.mix(all, 4, |b| f32::from_le_bytes(b).clamp(-1.0, 1.0), mono)
            }
        }
    }

    fn mix<T: Copy>(
        self,
        samples: &[T],
        sample_bytes: usize,
        to_float: impl Fn(T) -> f32,
        mono: &mut Vec<f32>,
    ) -> Result<usize, AudioError> {
        let channels = self.channels as usize;
        if !samples.len().is_multiple_of(channels) {
            return Err(AudioError::PartialFrame {
                found: samples.len() * sample_bytes,
                frame_bytes: channels * sample_bytes,
            });
        }
        let frames = samples.len() / channels;
        let max = MAX_CHUNK_SECONDS * self.sample_rate_hz as usize;
        if frames > max {
            return Err(AudioError::ChunkTooLong { found: frames, max });
        }
        mono.reserve(frames);
        if channels == 1 {
            mono.extend(samples.iter().map(|s| to_float(*s)));
        } else {
            let scale = 1.0 / channels as f32;
            mono.extend(
                samples
                    .chunks_exact(channels)
                    .map(|frame| frame.iter().map(|s| to_float(*s)).sum::<f32>() * scale),
            );
        }
        Ok(frames)
    }
}

/// Splits a byte payload into samples of `N` bytes.
fn words<const N: usize>(bytes: &[u8], spec: PcmSpec) -> Result<&[[u8; N]], AudioError> {
    let (whole, rest) = bytes.as_chunks::<N>();
    if rest.is_empty() {
        Ok(whole)
    } else {
        Err(AudioError::PartialFrame {
            found: bytes.len(),
            frame_bytes: N * spec.channels as usize,
        })
    }
}

pub(super) fn refuse_non_finite(samples: impl Iterator<Item = f32>) -> Result<(), AudioError> {
    let mut bad = samples
        .enumerate()
        .filter(|(_, s)| !s.is_finite())
        .map(|(index, _)| index);
    match bad.next() {
        None => Ok(()),
        Some(first) => Err(AudioError::NotFinite {
            count: 1 + bad.count(),
            first,
        }),
    }
}

fn from_u8(sample: u8) -> f32 {
    (f32::from(sample) - 128.0) / 128.0
}

fn from_i16(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

fn from_i32(sample: i32) -> f32 {
    // Through f64: an f32 has 24 bits of mantissa, and i32::MAX must not round up to 1.0 * 2^31 before the division.
    (f64::from(sample) / 2_147_483_648.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mono(samples: Samples<'_>, channels: u32) -> Result<Vec<f32>, AudioError> {
        let mut out = Vec::new();
        PcmSpec::new(16_000, channels)?.to_mono(samples, &mut out)?;
        Ok(out)
    }

    #[test]
    fn every_format_maps_its_extremes_and_its_zero() {
        use SampleFormat as F;
        // (format, bytes of lowest, of zero, of a quarter of full scale)
        let cases: [(F, &[u8]); 7] = [
            (F::U8, &[0, 128, 160]),
            (F::S8, &[0x80, 0, 32]),
            (F::S16Le, &[0x00, 0x80, 0, 0, 0x00, 0x20]),
            (F::S16Be, &[0x80, 0x00, 0, 0, 0x20, 0x00]),
            (F::S24Le, &[0, 0, 0x80, 0, 0, 0, 0, 0, 0x20]),
            (F::S32Le, &[0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x20]),
            (F::F32Le, &[0, 0, 0x80, 0xbf, 0, 0, 0, 0, 0, 0, 0x80, 0x3e]),
        ];
        for (format, bytes) in cases {
            assert_eq!(
                mono(Samples::Bytes(format, bytes), 1).unwrap(),
                [-1.0, 0.0, 0.25],
                "{format:?}"
            );
        }
    }

    #[test]
    fn typed_arrays_equal_the_same_bytes() {
        let shorts = [i16::MIN, -1, 0, 1, i16::MAX, 1234];
        let bytes: Vec<u8> = shorts.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(
            mono(Samples::I16(&shorts), 2).unwrap(),
            mono(Samples::Bytes(SampleFormat::S16Le, &bytes), 2).unwrap()
        );
        assert_eq!(
            mono(Samples::I32(&[i32::MIN, i32::MAX]), 1).unwrap(),
            [-1.0, 1.0]
        );
        assert_eq!(mono(Samples::I8(&[-128, 64]), 1).unwrap(), [-1.0, 0.5]);
        assert_eq!(mono(Samples::U8(&[0, 192]), 1).unwrap(), [-1.0, 0.5]);
    }

    #[test]
    fn channels_are_averaged_and_floats_clamped() {
        assert_eq!(
            mono(Samples::F32(&[1.0, 0.0, -0.5, 0.5, 3.0, -1.0]), 2).unwrap(),
            [0.5, 0.0, 0.0]
        );
        assert_eq!(mono(Samples::I16(&[]), 2).unwrap(), Vec::<f32>::new());
    }

    #[test]
    fn a_bad_float_refuses_the_chunk_and_counts() {
        let mut out = vec![0.5];
        let spec = PcmSpec::new(16_000, 1).unwrap();
        let bad = [0.0, f32::NAN, 0.1, f32::INFINITY, f32::NEG_INFINITY];
        let error = spec.to_mono(Samples::F32(&bad), &mut out).unwrap_err();
        assert!(
            matches!(error, AudioError::NotFinite { count: 3, first: 1 }),
            "{error}"
        );
        let bytes: Vec<u8> = bad.iter().flat_map(|s| s.to_le_bytes()).collect();
        let error = spec
            .to_mono(Samples::Bytes(SampleFormat::F32Le, &bytes), &mut out)
            .unwrap_err();
        assert!(
            matches!(error, AudioError::NotFinite { count: 3, first: 1 }),
            "{error}"
        );
        assert_eq!(out, [0.5], "nothing of a refused chunk is used");
    }

    #[test]
    fn lengths_that_end_inside_a_frame_are_refused() {
        let cases: [(Samples<'_>, u32, usize, usize); 5] = [
            (Samples::Bytes(SampleFormat::S16Le, &[0, 0, 0]), 1, 3, 2),
            (Samples::Bytes(SampleFormat::S16Le, &[0; 6]), 2, 6, 4),
            (Samples::Bytes(SampleFormat::S24Le, &[0; 4]), 1, 4, 3),
            (Samples::I16(&[0; 5]), 4, 10, 8),
            (Samples::F32(&[0.0; 3]), 2, 12, 8),
        ];
        for (samples, channels, bytes, frame) in cases {
            match mono(samples, channels) {
                Err(AudioError::PartialFrame { found, frame_bytes }) => {
                    assert_eq!((found, frame_bytes), (bytes, frame))
                }
                other => panic!("{samples:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn limits_are_inclusive() {
        for (rate, good) in [
            (0, false),
            (3_999, false),
            (4_000, true),
            (192_000, true),
            (192_001, false),
            (u32::MAX, false),
        ] {
            assert_eq!(PcmSpec::new(rate, 1).is_ok(), good, "{rate} Hz");
        }
        for (channels, good) in [
            (0, false),
            (1, true),
            (16, true),
            (17, false),
            (u32::MAX, false),
        ] {
            assert_eq!(
                PcmSpec::new(16_000, channels).is_ok(),
                good,
                "{channels} channels"
            );
        }
        let spec = PcmSpec::new(4_000, 1).unwrap();
        let limit = 4_000 * MAX_CHUNK_SECONDS;
        assert_eq!(
            spec.to_mono(Samples::I16(&vec![0; limit]), &mut Vec::new())
                .unwrap(),
            limit
        );
        let error = spec
            .to_mono(Samples::I16(&vec![0; limit + 1]), &mut Vec::new())
            .unwrap_err();
        assert!(
            matches!(error, AudioError::ChunkTooLong { found, max } if found == limit + 1 && max == limit),
            "{error}"
        );
    }

    #[test]
    fn format_codes_and_names() {
        assert_eq!(
            SampleFormat::from_portaudio(8).unwrap(),
            SampleFormat::S16Le
        );
        assert_eq!(
            SampleFormat::from_name("s16le").unwrap(),
            SampleFormat::S16Le
        );
        for code in [0, 3, -8, i32::MIN, 64] {
            assert!(SampleFormat::from_portaudio(code).is_err(), "{code}");
        }
        let error = SampleFormat::from_name(&"x".repeat(10_000))
            .unwrap_err()
            .to_string();
        assert!(
            error.len() < 200,
            "an error does not repeat a hostile name: {} bytes",
            error.len()
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic_and_all_results_are_in_range(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64), channels in 0u32..20, which in 0usize..7) {
            use SampleFormat as F;
            let format = [F::U8, F::S8, F::S16Le, F::S16Be, F::S24Le, F::S32Le, F::F32Le][which];
            if let Ok(out) = mono(Samples::Bytes(format, &bytes), channels) {
                proptest::prop_assert!(out.iter().all(|s| (-1.0..=1.0).contains(s)));
                proptest::prop_assert_eq!(out.len() * format.bytes() * channels as usize, bytes.len());
            }
        }
    }
}
