//! Sound as it comes from the bus: either package named audio_common_msgs, any sample format, checked and mixed down to one channel.

use llmasos_engine::audio::{PcmSpec, SampleFormat, Samples};
use llmasos_msgs::{
    Message,
    audio_common_msgs::{Audio, AudioStamped},
    audio_common_msgs_ros_drivers::AudioDataStamped,
};
use serde_json::Value;

use crate::port::FromBus;

/// What a stream of bytes without a description is taken for: what the ROS drivers' capture node sends by default when told `wave`.
const UNDESCRIBED_RATE_HZ: u32 = 16_000;

/// One chunk of sound.
#[derive(Clone, Debug, PartialEq)]
pub struct Sound {
    /// Stamp in ns since the epoch; the end of the chunk.
    pub stamp_ns: i64,
    /// Frame of the microphone.
    pub frame_id: String,
    /// Samples per second.
    pub rate_hz: u32,
    /// One channel, in [-1, 1].
    pub samples: Vec<f32>,
}

impl FromBus for Sound {
    fn from_cdr(type_name: &str, cdr: &[u8]) -> Result<Self, String> {
        match type_name {
            AudioStamped::TYPE => {
                described(AudioStamped::decode(cdr).map_err(|error| error.to_string())?)
            }
            AudioDataStamped::TYPE => {
                undescribed(AudioDataStamped::decode(cdr).map_err(|error| error.to_string())?)
            }
            other => Err(format!("expected a sound message, found {other}")),
        }
    }

    fn from_json(type_name: &str, value: &Value) -> Result<Self, String> {
        match type_name {
            AudioStamped::TYPE => described(
                <AudioStamped as Message>::from_json(value).map_err(|error| error.to_string())?,
            ),
            AudioDataStamped::TYPE => undescribed(
                <AudioDataStamped as Message>::from_json(value)
                    .map_err(|error| error.to_string())?,
            ),
            other => Err(format!("expected a sound message, found {other}")),
        }
    }

    fn stamp_ns(&self) -> Option<i64> {
        Some(self.stamp_ns)
    }
}

fn described(message: AudioStamped) -> Result<Sound, String> {
    let Audio {
        audio_data: data,
        info,
    } = &message.audio;
    let positive = |field: &str, value: i32| {
        u32::try_from(value)
            .map_err(|_| format!("{field}: expected a positive number, found {value}"))
    };
    let spec = PcmSpec::new(
        positive("rate", info.rate)?,
        positive("channels", info.channels)?,
    )
    .map_err(|error| error.to_string())?;
    let format = SampleFormat::from_portaudio(info.format).map_err(|error| error.to_string())?;
    // The field that matches the format holds the samples; 24-bit ones travel as bytes.
    let samples = match format {
        SampleFormat::F32Le => Samples::F32(&data.float32_data),
        SampleFormat::S32Le => Samples::I32(&data.int32_data),
        SampleFormat::S16Le => Samples::I16(&data.int16_data),
        SampleFormat::S8 => Samples::I8(&data.int8_data),
        SampleFormat::U8 => Samples::U8(&data.uint8_data),
        SampleFormat::S24Le | SampleFormat::S16Be => Samples::Bytes(format, &data.uint8_data),
    };
    sound(
        message.header.stamp.to_nanos(),
        &message.header.frame_id,
        spec,
        samples,
    )
}

fn undescribed(message: AudioDataStamped) -> Result<Sound, String> {
    let spec = PcmSpec::new(UNDESCRIBED_RATE_HZ, 1).map_err(|error| error.to_string())?;
    sound(
        message.header.stamp.to_nanos(),
        &message.header.frame_id,
        spec,
        Samples::Bytes(SampleFormat::S16Le, &message.audio.data),
    )
}

fn sound(
    stamp_ns: i64,
    frame_id: &str,
    spec: PcmSpec,
    samples: Samples<'_>,
) -> Result<Sound, String> {
    let mut mono = Vec::new();
    spec.to_mono(samples, &mut mono)
        .map_err(|error| error.to_string())?;
    Ok(Sound {
        stamp_ns,
        frame_id: frame_id.to_owned(),
        rate_hz: spec.sample_rate_hz(),
        samples: mono,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmasos_msgs::audio_common_msgs::{AudioData, AudioInfo};

    fn message(info: AudioInfo, audio_data: AudioData) -> Vec<u8> {
        AudioStamped {
            audio: Audio { audio_data, info },
            ..Default::default()
        }
        .encode()
        .unwrap()
    }

    #[test]
    fn formats_become_one_channel_of_floats() {
        let info = AudioInfo {
            format: 8,
            channels: 2,
            rate: 48_000,
            chunk: 2,
        };
        let cdr = message(
            info,
            AudioData {
                int16_data: vec![16_384, -16_384, 8_192, 8_192],
                ..Default::default()
            },
        );
        let sound = Sound::from_cdr(AudioStamped::TYPE, &cdr).unwrap();
        assert_eq!(
            (sound.rate_hz, sound.samples.as_slice()),
            (48_000, [0.0, 0.25].as_slice())
        );
    }

    #[test]
    fn what_cannot_be_sound_is_refused_by_name() {
        for (info, data, part) in [
            (
                AudioInfo {
                    format: 1,
                    channels: 1,
                    rate: 16_000,
                    chunk: 1,
                },
                AudioData {
                    float32_data: vec![f32::NAN],
                    ..Default::default()
                },
                "finite",
            ),
            (
                AudioInfo {
                    format: 8,
                    channels: 0,
                    rate: 16_000,
                    chunk: 1,
                },
                AudioData::default(),
                "channel",
            ),
            (
                AudioInfo {
                    format: 8,
                    channels: 1,
                    rate: -3,
                    chunk: 1,
                },
                AudioData::default(),
                "rate",
            ),
            (
                AudioInfo {
                    format: 99,
                    channels: 1,
                    rate: 16_000,
                    chunk: 1,
                },
                AudioData::default(),
                "99",
            ),
        ] {
            let error = Sound::from_cdr(AudioStamped::TYPE, &message(info, data)).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
