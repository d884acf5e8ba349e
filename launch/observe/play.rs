//! Playing recorded sources onto the bus as if they were sensors: every message is stamped with the moment it is due, in the graph's time.

use std::{
    io::BufRead,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use llmasos_msgs::{
    Message,
    audio_common_msgs::{Audio, AudioData, AudioInfo, AudioStamped},
    builtin_interfaces::Time,
    json_to_cdr, rosgraph_msgs,
    sensor_msgs::CompressedImage,
    std_msgs::Header,
};
use llmasos_nodes::{
    bus::{Bus, Qos},
    health::Health,
    output::Lanes,
};
use serde_json::{Value, json};

use super::pace::Pace;
use crate::{
    descriptor::graph::{Feed, Graph, PictureFolder, Pictures, Recording, Source},
    run::models::Folders,
};

/// Sound in one message: what a driver at 50 Hz sends.
const CHUNK: Duration = Duration::from_millis(20);
/// Silence after a clip, so that the end of speech can be told from the end of a transmission.
const TRAILING_SILENCE: Duration = Duration::from_millis(1500);
/// PortAudio's code for 16-bit integers.
const PORTAUDIO_INT16: i32 = 8;
/// Longest line of a recording, in bytes.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Most lines of a recording.
const LINES_MAX: usize = 1_000_000;
/// Largest picture file, in bytes.
const PICTURE_BYTES_MAX: u64 = 32 << 20;
/// Longest clip, in samples.
const CLIP_SAMPLES_MAX: usize = 600 * 48_000;

/// A source that has been read and can be played.
pub struct Reel {
    topic: String,
    at: Duration,
    until: Option<Duration>,
    content: Content,
}

/// Name of the ROS 2 node that stands for the sources.
const SOURCES_NODE: &str = "sources";

enum Content {
    /// 16-bit mono samples.
    Sound { rate_hz: u32, samples: Vec<i16> },
    /// Compressed pictures in turn.
    Pictures {
        files: Vec<Vec<u8>>,
        period: Duration,
    },
    /// Messages with their time, as JSON without a stamp.
    Messages {
        type_name: String,
        lines: Vec<(Duration, Value)>,
        repeat: bool,
    },
    /// One text.
    Text(String),
}

/// Reads every source of the graph; nothing is sent yet. Faults are not played here.
///
/// # Errors
/// The file, the line and what is wrong with it.
pub fn load(graph: &Graph, folders: &Folders) -> Result<Vec<Reel>> {
    graph
        .sources
        .iter()
        .filter_map(|source| reel(graph, source, folders).transpose())
        .collect()
}

fn reel(graph: &Graph, source: &Source, folders: &Folders) -> Result<Option<Reel>> {
    let content = match &source.feed {
        Feed::Wav {
            file, from, take, ..
        } => sound(&recording(file, folders)?, *from, *take)?,
        Feed::Images {
            pictures, rate_hz, ..
        } => Content::Pictures {
            files: picture_files(pictures, folders)?,
            period: Duration::from_secs_f64(1.0 / rate_hz),
        },
        Feed::JsonLines {
            topic,
            path,
            rate_hz,
            repeat,
        } => {
            let type_name = graph
                .topic(topic)
                .with_context(|| format!("topic {topic} has no contract"))?
                .type_name
                .clone();
            Content::Messages {
                lines: lines(path, *rate_hz, &type_name)?,
                type_name,
                repeat: *repeat,
            }
        }
        Feed::Text { text, .. } => Content::Text(text.clone()),
        Feed::Fault { .. } => return Ok(None),
    };
    let topic = source
        .topic()
        .context("a source without a topic")?
        .to_owned();
    Ok(Some(Reel {
        topic,
        at: source.at,
        until: source.until,
        content,
    }))
}

fn recording(file: &Recording, folders: &Folders) -> Result<PathBuf> {
    match file {
        Recording::File(path) => Ok(path.clone()),
        Recording::Catalogue { entry, member } => Ok(folders
            .get(entry)
            .with_context(|| format!("{entry} was not fetched"))?
            .join(member)),
    }
}

/// Reads a WAV file of 16-bit or float samples and mixes it to one channel.
///
/// # Errors
/// The file and what is wrong with it.
pub fn read_wav(path: &Path) -> Result<(u32, Vec<i16>)> {
    let mut reader = hound::WavReader::open(path)
        .with_context(|| format!("{}: not a WAV file that can be read", path.display()))?;
    let spec = reader.spec();
    let samples: Vec<i16> = match (spec.sample_format, spec.bits_per_sample) {
        (hound::SampleFormat::Int, 16) => reader
            .samples::<i16>()
            .take(CLIP_SAMPLES_MAX)
            .collect::<Result<_, _>>()?,
        (hound::SampleFormat::Float, 32) => reader
            .samples::<f32>()
            .take(CLIP_SAMPLES_MAX)
            .map(|sample| sample.map(|value| (value.clamp(-1.0, 1.0) * 32767.0) as i16))
            .collect::<Result<_, _>>()?,
        (format, bits) => bail!(
            "{}: expected 16-bit integers or 32-bit floats, found {bits}-bit {format:?}",
            path.display()
        ),
    };
    let channels = usize::from(spec.channels.max(1));
    let mono = samples
        .chunks_exact(channels)
        .map(|frame| {
            (frame.iter().map(|sample| i32::from(*sample)).sum::<i32>() / channels as i32) as i16
        })
        .collect();
    Ok((spec.sample_rate, mono))
}

fn sound(path: &Path, from: Duration, take: Option<Duration>) -> Result<Content> {
    let (rate_hz, samples) = read_wav(path)?;
    let at = |duration: Duration| (duration.as_secs_f64() * f64::from(rate_hz)) as usize;
    let begin = at(from).min(samples.len());
    let end = take.map_or(samples.len(), |take| (begin + at(take)).min(samples.len()));
    let mut clip = samples[begin..end].to_vec();
    clip.resize(clip.len() + at(TRAILING_SILENCE), 0);
    Ok(Content::Sound {
        rate_hz,
        samples: clip,
    })
}

fn picture_files(pictures: &Pictures, folders: &Folders) -> Result<Vec<Vec<u8>>> {
    let folder = match &pictures.from {
        PictureFolder::Folder(path) => path.clone(),
        PictureFolder::Catalogue(entry) => folders
            .get(entry)
            .with_context(|| format!("{entry} was not fetched"))?
            .clone(),
    };
    let mut paths: Vec<PathBuf> = if pictures.members.is_empty() {
        let is_picture = |path: &PathBuf| {
            path.extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| ["jpg", "jpeg", "png"].contains(&extension))
        };
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(is_picture)
            .collect()
    } else {
        pictures
            .members
            .iter()
            .map(|member| folder.join(member))
            .collect()
    };
    if pictures.members.is_empty() {
        paths.sort();
    }
    if paths.is_empty() {
        bail!(
            "{}: expected JPEG or PNG pictures, found none",
            folder.display()
        );
    }
    paths.iter().map(|path| read_picture(path)).collect()
}

fn read_picture(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::metadata(path)
        .with_context(|| format!("reading {}", path.display()))?
        .len();
    if bytes > PICTURE_BYTES_MAX {
        bail!(
            "{}: expected at most {PICTURE_BYTES_MAX} bytes, found {bytes}",
            path.display()
        );
    }
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn lines(path: &Path, rate_hz: Option<f64>, type_name: &str) -> Result<Vec<(Duration, Value)>> {
    let file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut lines = Vec::new();
    for (index, line) in std::io::BufReader::new(file).lines().enumerate() {
        let place = || format!("{}:{}", path.display(), index + 1);
        let line = line.with_context(place)?;
        if index >= LINES_MAX || line.len() > LINE_BYTES_MAX {
            bail!(
                "{}: expected at most {LINES_MAX} lines of {LINE_BYTES_MAX} bytes",
                place()
            );
        }
        if line.trim().is_empty() {
            continue;
        }
        let mut value: Value = serde_json::from_str(&line).with_context(place)?;
        let time = match (rate_hz, value.get("t_s").and_then(Value::as_f64)) {
            (Some(rate), _) => lines.len() as f64 / rate,
            (None, Some(time)) if time.is_finite() && time >= 0.0 => time,
            (None, _) => bail!(
                "{}: expected \"t_s\" with seconds from 0, found none",
                place()
            ),
        };
        let data = value
            .get_mut("data")
            .map(Value::take)
            .with_context(|| format!("{}: expected \"data\"", place()))?;
        // A mistake in a recording shows before anything is played.
        json_to_cdr(type_name, &stamped(type_name, data.clone(), 1)).with_context(place)?;
        lines.push((Duration::from_secs_f64(time), data));
    }
    Ok(lines)
}

/// `data` with `header.stamp`, or `stamp` where the type has no header. A clock is not stamped: it says the time.
fn stamped(type_name: &str, mut data: Value, now_ns: i64) -> Value {
    if type_name == rosgraph_msgs::Clock::TYPE {
        return data;
    }
    let time = Time::from_nanos(now_ns);
    let stamp = json!({ "sec": time.sec, "nanosec": time.nanosec });
    if let Some(object) = data.as_object_mut() {
        match object.get_mut("header").and_then(Value::as_object_mut) {
            Some(header) => {
                header.insert("stamp".to_owned(), stamp);
            }
            None => {
                object.insert("stamp".to_owned(), stamp);
            }
        }
    }
    data
}

impl Reel {
    fn type_name(&self) -> &str {
        match &self.content {
            Content::Sound { .. } => AudioStamped::TYPE,
            Content::Pictures { .. } => CompressedImage::TYPE,
            Content::Messages { type_name, .. } => type_name,
            Content::Text(_) => llmasos_msgs::std_msgs::String::TYPE,
        }
    }

    /// Plays it; times count from the start of `pace`.
    ///
    /// # Errors
    /// When the bus is gone.
    pub async fn play(self, bus: &Bus, mut pace: Pace) -> Result<()> {
        let qos = match self.content {
            Content::Text(_) => Qos::EVENT,
            Content::Sound { .. } => Qos {
                reliable: true,
                block: true,
                ..Qos::STREAM
            },
            Content::Pictures { .. } | Content::Messages { .. } => Qos::STREAM,
        };
        let record = Health::default().node(SOURCES_NODE);
        let publisher = Lanes::open(bus, &record, &self.topic, self.type_name(), qos).await?;
        let begin = self.at;
        let over = |at: Duration| self.until.is_some_and(|end| at > end);
        match self.content {
            Content::Sound { rate_hz, samples } => {
                play_sound(&publisher, &mut pace, begin, rate_hz, &samples).await?
            }
            Content::Pictures { files, period } => {
                for (index, file) in files.iter().cycle().enumerate() {
                    let at = begin + period * index as u32;
                    if over(at) {
                        break;
                    }
                    let stamp_ns = pace.until(at).await;
                    publisher.put(picture(file, stamp_ns)?.into()).await?;
                }
            }
            Content::Messages {
                type_name,
                lines,
                repeat,
            } => {
                if type_name == rosgraph_msgs::Clock::TYPE {
                    pace = pace.on_wall();
                }
                let length = lines.last().map_or(Duration::ZERO, |(time, _)| {
                    *time + Duration::from_millis(50)
                });
                for round in 0u32.. {
                    for (time, data) in &lines {
                        let at = begin + length * round + *time;
                        if over(at) {
                            return Ok(());
                        }
                        let stamp_ns = pace.until(at).await;
                        let data = stamped(&type_name, data.clone(), stamp_ns);
                        publisher
                            .put(json_to_cdr(&type_name, &data)?.into())
                            .await?;
                    }
                    if !repeat || lines.is_empty() {
                        break;
                    }
                }
            }
            Content::Text(text) => {
                pace.until(begin).await;
                publisher
                    .put(
                        llmasos_msgs::std_msgs::String { data: text }
                            .encode()?
                            .into(),
                    )
                    .await?;
            }
        }
        Ok(())
    }
}

async fn play_sound(
    publisher: &Lanes,
    pace: &mut Pace,
    begin: Duration,
    rate_hz: u32,
    samples: &[i16],
) -> Result<()> {
    let step = ((CHUNK.as_secs_f64() * f64::from(rate_hz)) as usize).max(1);
    for (index, chunk) in samples.chunks(step).enumerate() {
        // A microphone delivers a chunk when it is over.
        let stamp_ns = pace.until(begin + CHUNK * (index as u32 + 1)).await;
        publisher
            .put(audio(chunk, rate_hz, stamp_ns).encode()?.into())
            .await?;
    }
    Ok(())
}

/// A chunk of sound as a message stamped with its end.
pub fn audio(chunk: &[i16], rate_hz: u32, stamp_ns: i64) -> AudioStamped {
    AudioStamped {
        header: Header {
            stamp: Time::from_nanos(stamp_ns),
            frame_id: "microphone".to_owned(),
        },
        audio: Audio {
            audio_data: AudioData {
                int16_data: chunk.to_vec(),
                ..Default::default()
            },
            info: AudioInfo {
                format: PORTAUDIO_INT16,
                channels: 1,
                rate: rate_hz as i32,
                chunk: chunk.len() as i32,
            },
        },
    }
}

fn picture(file: &[u8], stamp_ns: i64) -> Result<Vec<u8>> {
    let format = if file.starts_with(&[0x89, b'P']) {
        "png"
    } else {
        "jpeg"
    };
    let message = CompressedImage {
        header: Header {
            stamp: Time::from_nanos(stamp_ns),
            frame_id: "camera".to_owned(),
        },
        format: format.to_owned(),
        data: file.to_vec(),
    };
    Ok(message.encode()?)
}
