//! Attacks on the GGUF reader: each way a file can lie has its own name, and no change of any byte makes it panic.

use super::sample::{Sample, text};
use super::*;
use proptest::prelude::*;

fn sample() -> Sample {
    let words = [
        &8_u32.to_le_bytes()[..],
        &2_u64.to_le_bytes(),
        &text("a"),
        &text("b"),
    ]
    .concat();
    let nested = [
        &9_u32.to_le_bytes()[..],
        &1_u64.to_le_bytes(),
        &5_u32.to_le_bytes(),
        &2_u64.to_le_bytes(),
        &[1, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    Sample::default()
        .entry("general.architecture", 8, &text("llama"))
        .entry("llama.block_count", 4, &7_u32.to_le_bytes())
        .entry("eps", 6, &0.5_f32.to_le_bytes())
        .entry("flag", 7, &[1])
        .entry("words", 9, &words)
        .entry("nested", 9, &nested)
        .tensor("w", &[32, 2], 2, 0)
        .tensor("b", &[8], 0, 64)
}

const SAMPLE_DATA_BYTES: usize = 96;

#[test]
fn reads_a_well_formed_file() {
    let bytes = sample().bytes(SAMPLE_DATA_BYTES);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.string("general.architecture"), Ok("llama"));
    assert_eq!(gguf.unsigned("llama.block_count"), Ok(7));
    assert_eq!(gguf.float("eps"), Ok(0.5));
    assert_eq!(gguf.strings("words"), Ok(vec!["a", "b"]));
    assert_eq!(
        gguf.metadata()["nested"],
        Value::Array(vec![Value::Array(vec![
            Value::Signed(1),
            Value::Signed(-1)
        ])])
    );
    let w = gguf.tensor("w").unwrap();
    assert_eq!((w.columns(), w.rows(), w.bytes), (32, 2, 36));
    assert_eq!(gguf.dequantize("b"), Ok(vec![0.0; 8]));
    assert_eq!(
        gguf.dequantize("x"),
        Err(GgufError::MissingTensor { tensor: "x".into() })
    );
}

#[test]
fn wrong_metadata_types_are_named() {
    let bytes = sample().bytes(SAMPLE_DATA_BYTES);
    let gguf = Gguf::parse(&bytes).unwrap();
    let message = gguf.unsigned("words").unwrap_err().to_string();
    assert_eq!(
        message,
        "metadata words: expected an unsigned integer, found an array of 2"
    );
    assert_eq!(
        gguf.string("absent").unwrap_err().to_string(),
        "metadata absent: expected a string, found nothing"
    );
    assert!(gguf.integers("words").is_err() && gguf.strings("nested").is_err());
}

/// Makes a bad file and says which error names it.
struct Attack {
    why: &'static str,
    bytes: Vec<u8>,
    is_named: fn(&GgufError) -> bool,
}

fn header(version: u32, tensors: u64, metadata: u64) -> Vec<u8> {
    [
        &MAGIC[..],
        &version.to_le_bytes(),
        &tensors.to_le_bytes(),
        &metadata.to_le_bytes(),
    ]
    .concat()
}

fn deep_array() -> Vec<u8> {
    let mut value = Vec::new();
    for _ in 0..MAX_ARRAY_DEPTH {
        value.extend([&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat());
    }
    value.extend([&0_u32.to_le_bytes()[..], &0_u64.to_le_bytes()].concat());
    value
}

fn header_attacks() -> Vec<Attack> {
    let array = |count: u64| [&0_u32.to_le_bytes()[..], &count.to_le_bytes()].concat();
    vec![
        Attack {
            why: "empty file",
            bytes: vec![],
            is_named: |error| matches!(error, GgufError::Truncated { .. }),
        },
        Attack {
            why: "other format",
            bytes: b"PK\x03\x04".to_vec(),
            is_named: |error| matches!(error, GgufError::Magic { .. }),
        },
        Attack {
            why: "version 1",
            bytes: header(1, 0, 0),
            is_named: |error| matches!(error, GgufError::Version { found: 1 }),
        },
        Attack {
            why: "big-endian version",
            bytes: header(3_u32.swap_bytes(), 0, 0),
            is_named: |error| matches!(error, GgufError::Version { .. }),
        },
        Attack {
            why: "countless tensors",
            bytes: header(3, u64::MAX, 0),
            is_named: |error| matches!(error, GgufError::Limit { .. }),
        },
        Attack {
            why: "countless metadata",
            bytes: header(3, 0, u64::MAX),
            is_named: |error| matches!(error, GgufError::Limit { .. }),
        },
        Attack {
            why: "promised metadata absent",
            bytes: header(3, 0, 1),
            is_named: |error| matches!(error, GgufError::Truncated { .. }),
        },
        Attack {
            why: "type 99",
            bytes: Sample::default().entry("k", 99, &[]).bytes(0),
            is_named: |error| matches!(error, GgufError::ValueType { found: 99, .. }),
        },
        Attack {
            why: "bool 2",
            bytes: Sample::default().entry("k", 7, &[2]).bytes(0),
            is_named: |error| matches!(error, GgufError::Bool { found: 2, .. }),
        },
        Attack {
            why: "string of 16 EiB",
            bytes: Sample::default()
                .entry("k", 8, &u64::MAX.to_le_bytes())
                .bytes(0),
            is_named: |error| matches!(error, GgufError::Limit { .. }),
        },
        Attack {
            why: "not UTF-8",
            bytes: Sample::default()
                .entry("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])
                .bytes(0),
            is_named: |error| matches!(error, GgufError::Utf8 { .. }),
        },
        Attack {
            why: "array of 16 Ei items",
            bytes: Sample::default().entry("k", 9, &array(u64::MAX)).bytes(0),
            is_named: |error| matches!(error, GgufError::Limit { .. }),
        },
        Attack {
            why: "array longer than the file",
            bytes: Sample::default().entry("k", 9, &array(MAX_ITEMS)).bytes(0),
            is_named: |error| matches!(error, GgufError::Truncated { .. }),
        },
        Attack {
            why: "arrays in arrays without end",
            bytes: Sample::default().entry("k", 9, &deep_array()).bytes(0),
            is_named: |error| {
                matches!(
                    error,
                    GgufError::Limit {
                        what: "array depth",
                        ..
                    }
                )
            },
        },
        Attack {
            why: "same key twice",
            bytes: Sample::default()
                .entry("k", 7, &[1])
                .entry("k", 7, &[1])
                .bytes(0),
            is_named: |error| matches!(error, GgufError::Duplicate { .. }),
        },
        Attack {
            why: "alignment 0",
            bytes: Sample::default()
                .entry(ALIGNMENT_KEY, 4, &0_u32.to_le_bytes())
                .bytes(0),
            is_named: |error| matches!(error, GgufError::Alignment { found: 0 }),
        },
        Attack {
            why: "alignment that is text",
            bytes: Sample::default()
                .entry(ALIGNMENT_KEY, 8, &text("32"))
                .bytes(0),
            is_named: |error| matches!(error, GgufError::Metadata { .. }),
        },
    ]
}

fn tensor_attacks() -> Vec<Attack> {
    let tensor =
        |dims: &[u64], kind, offset| Sample::default().tensor("t", dims, kind, offset).bytes(64);
    vec![
        Attack {
            why: "rank 5",
            bytes: tensor(&[1; 5], 0, 0),
            is_named: |error| {
                matches!(
                    error,
                    GgufError::Limit {
                        what: "tensor rank",
                        ..
                    }
                )
            },
        },
        Attack {
            why: "overflowing shape",
            bytes: tensor(&[1 << 32, 1 << 32], 0, 0),
            is_named: |error| matches!(error, GgufError::Shape { .. }),
        },
        Attack {
            why: "overflowing bytes",
            bytes: tensor(&[1 << 62], 0, 0),
            is_named: |error| matches!(error, GgufError::Shape { .. }),
        },
        Attack {
            why: "empty tensor",
            bytes: tensor(&[32, 0], 2, 0),
            is_named: |error| matches!(error, GgufError::Shape { .. }),
        },
        Attack {
            why: "half a block",
            bytes: tensor(&[16, 2], 2, 0),
            is_named: |error| matches!(error, GgufError::Shape { block: 32, .. }),
        },
        Attack {
            why: "type 77",
            bytes: tensor(&[1], 77, 0),
            is_named: |error| matches!(error, GgufError::TensorType { found: 77, .. }),
        },
        Attack {
            why: "odd offset",
            bytes: tensor(&[1], 0, 1),
            is_named: |error| matches!(error, GgufError::Misaligned { offset: 1, .. }),
        },
        Attack {
            why: "behind the end",
            bytes: tensor(&[17], 0, 0),
            is_named: |error| {
                matches!(
                    error,
                    GgufError::OutOfFile {
                        end: 68,
                        length: 64,
                        ..
                    }
                )
            },
        },
        Attack {
            why: "far behind the end",
            bytes: tensor(&[1], 0, u64::MAX - 31),
            is_named: |error| matches!(error, GgufError::OutOfFile { .. }),
        },
        Attack {
            why: "two tensors in one place",
            bytes: Sample::default()
                .tensor("t", &[16], 0, 0)
                .tensor("u", &[1], 0, 32)
                .bytes(64),
            is_named: |error| matches!(error, GgufError::Overlap { .. }),
        },
        Attack {
            why: "same tensor twice",
            bytes: Sample::default()
                .tensor("t", &[1], 0, 0)
                .tensor("t", &[1], 0, 32)
                .bytes(64),
            is_named: |error| matches!(error, GgufError::Duplicate { .. }),
        },
    ]
}

#[test]
fn every_attack_has_its_name() {
    for attack in header_attacks().into_iter().chain(tensor_attacks()) {
        let error = Gguf::parse(&attack.bytes).expect_err(attack.why);
        assert!((attack.is_named)(&error), "{}: {error:?}", attack.why);
    }
}

#[test]
fn infinite_weights_are_refused() {
    let mut bytes = sample().bytes(SAMPLE_DATA_BYTES);
    let length = bytes.len();
    bytes[length - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(
        gguf.dequantize("b").unwrap_err(),
        GgufError::NotFinite {
            tensor: "b".into(),
            index: 7,
            value: f32::INFINITY
        }
    );
}

/// Reads everything there is to read; must return, whatever the bytes are.
fn read_all(bytes: &[u8]) {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for name in gguf.tensors().keys() {
        let _ = gguf.dequantize(name);
    }
    for key in gguf.metadata().keys() {
        let _ = (gguf.strings(key), gguf.integers(key), gguf.unsigned(key));
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>(), is_cut: bool) {
        let mut bytes = sample().bytes(SAMPLE_DATA_BYTES);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..512)) {
        read_all(&[&MAGIC[..], &3_u32.to_le_bytes(), &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], &tail].concat());
    }
}
