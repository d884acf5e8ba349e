//! Messages read in place say the same as messages that were copied, wherever the bytes stand and whatever they are.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::borrow::Cow;
use std::sync::LazyLock;

use llmasos_msgs::{InPlace, Message, sensor_msgs, std_msgs};
use proptest::prelude::*;
use serde_json::Value;

mod types;
use types::{every_type, every_type_in_place};

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("data/cdr_vectors.json")).unwrap());

fn cdr_of(id: &str) -> Vec<u8> {
    let hex = VECTORS[id]["cdr"].as_str().unwrap();
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

/// The same result, compared as bytes: NaN is not equal to itself.
fn agree<M: InPlace>(cdr: &[u8]) {
    match (M::view(cdr), M::decode(cdr)) {
        (Ok(view), Ok(copied)) => {
            let owned: M = view.into();
            assert_eq!(owned.encode(), copied.encode(), "{}", M::TYPE);
        }
        (Err(view), Err(copied)) => assert_eq!(view, copied),
        (view, copied) => panic!("{}: {:?} {:?}", M::TYPE, view.is_ok(), copied.is_ok()),
    }
}

fn check_vector<M: InPlace>() {
    let cdr = cdr_of(M::DEFINITION);
    let message = M::decode(&cdr).unwrap();
    let owned: M = M::view(&cdr).unwrap().into();
    assert_eq!(owned, message);
    for length in 0..cdr.len() {
        agree::<M>(&cdr[..length]);
    }
    let big = cdr::serialize::<_, _, cdr::CdrBe>(&message, cdr::Infinite).unwrap();
    let owned: M = M::view(&big).unwrap().into();
    assert_eq!(owned, message, "big-endian");
    for shift in 1..8 {
        let mut shifted = vec![0xEE; shift];
        shifted.extend_from_slice(&cdr);
        let owned: M = M::view(&shifted[shift..]).unwrap().into();
        assert_eq!(owned, message, "{shift} bytes from an aligned address");
    }
}

#[test]
fn every_view_reads_what_the_message_reads() {
    every_type_in_place!(check_vector);
}

#[test]
fn types_with_lists_of_numbers_are_a_part_of_all() {
    fn collect<M: Message>(names: &mut Vec<&str>) {
        names.push(M::DEFINITION);
    }
    let (mut all, mut in_place) = (Vec::new(), Vec::new());
    every_type!(collect, &mut all);
    every_type_in_place!(collect, &mut in_place);
    assert!(in_place.len() >= 35 && in_place.iter().all(|name| all.contains(name)));
    assert!(in_place.contains(&"audio_common_msgs@ros-drivers/msg/AudioDataStamped"));
}

/// Bytes at an address that is a multiple of eight, or off it by `shift`.
struct Placed {
    words: Vec<u64>,
    start: usize,
    length: usize,
}

impl Placed {
    fn new(bytes: &[u8], shift: usize) -> Self {
        let mut words = vec![0_u64; bytes.len() / 8 + 3];
        let room = bytemuck::cast_slice_mut::<u64, u8>(&mut words);
        room[shift..shift + bytes.len()].copy_from_slice(bytes);
        Self {
            words,
            start: shift,
            length: bytes.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[self.start..self.start + self.length]
    }
}

#[test]
fn numbers_are_borrowed_where_the_address_allows() {
    let floats = std_msgs::Float32MultiArray {
        data: vec![0.5, -1.0, f32::NAN],
        ..Default::default()
    };
    let doubles = std_msgs::Float64MultiArray {
        data: vec![0.5, -1.0],
        ..Default::default()
    };
    let (floats, doubles) = (floats.encode().unwrap(), doubles.encode().unwrap());
    // A float32 stands at a multiple of 4 after the header of 4, a float64 at a multiple of 8 after it.
    for shift in 0..8 {
        let placed = Placed::new(&floats, shift);
        let view = std_msgs::Float32MultiArray::view(placed.bytes()).unwrap();
        let in_place = matches!(view.data, Cow::Borrowed(_));
        assert_eq!(in_place, shift % 4 == 0, "float32 at {shift}");
        assert_eq!(view.data[..2], [0.5, -1.0]);
        let placed = Placed::new(&doubles, shift);
        let view = std_msgs::Float64MultiArray::view(placed.bytes()).unwrap();
        let in_place = matches!(view.data, Cow::Borrowed(_));
        assert_eq!(in_place, shift == 4, "float64 at {shift}");
        assert_eq!(view.data[..], [0.5, -1.0]);
    }
    let image = sensor_msgs::Image {
        encoding: "mono8".to_owned(),
        data: vec![1, 2, 3],
        ..Default::default()
    };
    let cdr = image.encode().unwrap();
    let placed = Placed::new(&cdr, 3);
    let view = sensor_msgs::Image::view(placed.bytes()).unwrap();
    assert_eq!((view.encoding, view.data), ("mono8", &[1, 2, 3][..]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_bytes_are_refused_alike(order in 0..2_u8, body in proptest::collection::vec(prop_oneof![6 => Just(0_u8), 2 => 1..5_u8, 2 => any::<u8>()], 0..300)) {
        let mut cdr = vec![0, order, 0, 0];
        cdr.extend(body);
        every_type_in_place!(agree, &cdr);
    }
}
