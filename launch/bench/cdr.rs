//! CDR of four messages, measured: ours, copied and in place, beside the crate `cdr`, and beside a plain copy of the same bytes.
//!
//! A picture and a second of sound are almost all one list of numbers; predicted objects and a verdict have none. The crate `cdr` goes
//! through serde, so it writes a list number by number; for bytes the crate `serde_bytes` tells it better, which is its second column.
//! All ways take turns within a round, and every way is checked against the others before anything is measured.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use llmasos_msgs::{
    InPlace, Message, audio_common_msgs as audio, autoware_perception_msgs as perception,
    geometry_msgs as geometry, llmasos_msgs::GateVerdict, sensor_msgs::Image, std_msgs::Header,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use crate::observe::report::percentile;

mod reference;

/// Bytes that one timing moves at least, so that the clock's own cost does not show.
const TIMED_BYTES: usize = 1 << 20;
/// Most repetitions of one timing.
const REPEATS_MAX: usize = 2_000;
/// Objects of the predicted-objects message: a busy crossing.
const OBJECTS: usize = 32;
/// Poses of each object's path: 10 s in steps of 0.5 s.
const POSES: usize = 20;
/// Samples of the sound: a second of two channels at 48 kHz.
const SAMPLES: usize = 2 * 48_000;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// ROS type of the message.
    pub message: &'static str,
    /// Its bytes as CDR.
    pub bytes: usize,
    /// `encode`, `decode`, or `copy` for a plain copy into a new buffer.
    pub operation: &'static str,
    /// Who did it.
    pub way: &'static str,
    /// Median over the rounds.
    pub median: Duration,
    /// The median of the plain copy of the same bytes.
    pub copy: Duration,
}

impl Figure {
    /// How many times a plain copy of the same bytes it took.
    pub fn copies(&self) -> f64 {
        self.median.as_secs_f64() / self.copy.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// One object of `--json`.
    pub fn json(&self) -> Value {
        json!({
            "message": self.message, "bytes": self.bytes, "operation": self.operation, "way": self.way,
            "median_us": (self.median.as_secs_f64() * 1e9).round() / 1e3,
            "copies": (self.copies() * 1e3).round() / 1e3,
        })
    }
}

/// Measures all messages over so many counted rounds.
///
/// # Errors
/// When two ways disagree about the bytes.
pub fn measure(rounds: usize, mut tell: impl FnMut(Vec<Figure>)) -> Result<()> {
    let picture = picture();
    let mut bench = Bench::new::<Image, reference::Image<Vec<u8>>>(&picture, "cdr per element")?;
    bench.in_place::<Image>();
    bench.beside::<Image, reference::Image<ByteBuf>>(&picture, "cdr with serde_bytes")?;
    tell(bench.run(rounds));

    let sound = sound();
    let mut bench =
        Bench::new::<audio::AudioStamped, reference::AudioStamped>(&sound, "cdr per element")?;
    bench.in_place::<audio::AudioStamped>();
    tell(bench.run(rounds));

    let objects = objects();
    let bench =
        Bench::new::<perception::PredictedObjects, reference::PredictedObjects>(&objects, "cdr")?;
    tell(bench.run(rounds));

    let bench = Bench::new::<GateVerdict, reference::GateVerdict>(&verdict(), "cdr")?;
    tell(bench.run(rounds));
    Ok(())
}

/// One way to do one thing to one message.
struct Way {
    operation: &'static str,
    name: &'static str,
    work: Box<dyn Fn()>,
    samples_ns: Vec<f64>,
}

/// All ways for one message.
struct Bench {
    message: &'static str,
    cdr: Vec<u8>,
    ways: Vec<Way>,
}

impl Bench {
    /// Ours beside the crate `cdr` with a struct `R` of the same fields.
    fn new<M: Message, R: Serialize + DeserializeOwned + 'static>(
        message: &M,
        name: &'static str,
    ) -> Result<Self> {
        let cdr = message.encode()?;
        ensure!(
            M::decode(&cdr)? == *message,
            "{}: reads back another message",
            M::TYPE
        );
        let mut bench = Bench {
            message: M::TYPE,
            cdr: cdr.clone(),
            ways: Vec::new(),
        };
        let bytes = cdr.clone();
        bench.way("copy", "into a new buffer", move || {
            drop(black_box(black_box(&bytes).clone()))
        });
        let (ours, bytes) = (message.clone(), cdr);
        bench.way("encode", "ours", move || {
            drop(black_box(black_box(&ours).encode()))
        });
        bench.way("decode", "ours", move || {
            drop(black_box(M::decode(black_box(&bytes))))
        });
        bench.beside::<M, R>(message, name)?;
        Ok(bench)
    }

    /// Ours without a copy.
    fn in_place<M: InPlace>(&mut self) {
        let bytes = self.cdr.clone();
        self.way("decode", "ours in place", move || {
            drop(black_box(M::view(black_box(&bytes))));
        });
    }

    /// The crate `cdr` with a struct `R` of the same fields.
    fn beside<M: Message, R: Serialize + DeserializeOwned + 'static>(
        &mut self,
        message: &M,
        name: &'static str,
    ) -> Result<()> {
        let reference: R = ::cdr::deserialize(&self.cdr)
            .with_context(|| format!("{}: the crate cdr does not read it", M::TYPE))?;
        let write = |value: &R| ::cdr::serialize::<_, _, ::cdr::CdrLe>(value, ::cdr::Infinite);
        ensure!(
            write(&reference)? == message.encode()?,
            "{}: the crate cdr writes other bytes",
            M::TYPE
        );
        let bytes = self.cdr.clone();
        self.way("encode", name, move || {
            drop(black_box(write(black_box(&reference))))
        });
        self.way("decode", name, move || {
            drop(black_box(::cdr::deserialize::<R>(black_box(&bytes))));
        });
        Ok(())
    }

    fn way(&mut self, operation: &'static str, name: &'static str, work: impl Fn() + 'static) {
        self.ways.push(Way {
            operation,
            name,
            work: Box::new(work),
            samples_ns: Vec::new(),
        });
    }

    /// Rounds of all ways in turn; one before them is not counted.
    fn run(mut self, rounds: usize) -> Vec<Figure> {
        let repeats = (TIMED_BYTES / self.cdr.len()).clamp(1, REPEATS_MAX);
        for round in 0..=rounds {
            for way in &mut self.ways {
                let begun = Instant::now();
                for _ in 0..repeats {
                    (way.work)();
                }
                if round > 0 {
                    way.samples_ns
                        .push(begun.elapsed().as_secs_f64() * 1e9 / repeats as f64);
                }
            }
        }
        let median = |way: &Way| {
            Duration::from_nanos(percentile(&way.samples_ns, 0.5).unwrap_or(0.0).round() as u64)
        };
        let copy = self.ways.first().map(median).unwrap_or_default();
        let mut figures: Vec<Figure> = self
            .ways
            .iter()
            .map(|way| Figure {
                message: self.message,
                bytes: self.cdr.len(),
                operation: way.operation,
                way: way.name,
                median: median(way),
                copy,
            })
            .collect();
        // Encoding before decoding; in each the order in which the ways were named.
        figures.sort_by_key(|figure| (figure.operation == "decode", figure.operation == "encode"));
        figures
    }
}

fn header() -> Header {
    Header {
        frame_id: "base_link".to_owned(),
        ..Header::default()
    }
}

/// Full HD in three colours: 6.2 MB.
pub(crate) fn picture() -> Image {
    let (width, height) = (1920, 1080);
    let step = 3 * width;
    Image {
        header: header(),
        height,
        width,
        encoding: "rgb8".to_owned(),
        step,
        data: (0..height * step).map(|at| (at % 251) as u8).collect(),
        ..Image::default()
    }
}

fn sound() -> audio::AudioStamped {
    let samples = (0..SAMPLES).map(|at| (at as f32 * 0.01).sin() * 0.5);
    audio::AudioStamped {
        header: header(),
        audio: audio::Audio {
            audio_data: audio::AudioData {
                float32_data: samples.collect(),
                ..audio::AudioData::default()
            },
            info: audio::AudioInfo {
                format: 1,
                channels: 2,
                rate: 48_000,
                chunk: 48_000,
            },
        },
    }
}

fn objects() -> perception::PredictedObjects {
    let pose = |at: usize| geometry::Pose {
        position: geometry::Point {
            x: at as f64,
            y: 0.5,
            z: 0.0,
        },
        ..geometry::Pose::default()
    };
    let object = |number: usize| perception::PredictedObject {
        existence_probability: 0.9,
        classification: vec![perception::ObjectClassification {
            label: 1,
            probability: 0.8,
        }],
        kinematics: perception::PredictedObjectKinematics {
            predicted_paths: vec![perception::PredictedPath {
                path: (number..number + POSES).map(pose).collect(),
                confidence: 0.7,
                ..perception::PredictedPath::default()
            }],
            ..perception::PredictedObjectKinematics::default()
        },
        ..perception::PredictedObject::default()
    };
    perception::PredictedObjects {
        header: header(),
        objects: (0..OBJECTS).map(object).collect(),
    }
}

fn verdict() -> GateVerdict {
    GateVerdict {
        header: header(),
        sequence: 1_000,
        verdict: GateVerdict::ACCEPTED,
        max_speed: 8.3,
        rule: "none".to_owned(),
        ..GateVerdict::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_every_message_is_measured_and_agrees() {
        let mut found = Vec::new();
        measure(1, |figures| found.extend(figures)).unwrap();
        let ways: Vec<(usize, &str, &str)> = found
            .iter()
            .map(|figure| (figure.bytes, figure.operation, figure.way))
            .collect();
        assert_eq!(ways.len(), 8 + 6 + 5 + 5, "{ways:?}");
        let picture = found.first().unwrap();
        assert_eq!(picture.message, "sensor_msgs/msg/Image");
        assert!(picture.bytes > 6_220_800);
        assert!(
            found.iter().all(|figure| figure.median > Duration::ZERO),
            "{found:?}"
        );
    }
}
