//! What a hostile message can make the decoder allocate, and what an honest picture costs: one copy, or none.
//!
//! A counting allocator measures the peak of each thread. The crate `cdr` allocates 4 GiB for the first message here.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.
#![allow(unsafe_code)] // A global allocator is unsafe by definition; this one only counts and passes on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use llmasos_msgs::{InPlace, Message, Registry, cdr_to_json, sensor_msgs, std_msgs};

mod types;
use types::every_type;

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
    if bytes > 0 {
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    }
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak of live bytes while `work` runs, and number of allocations.
fn measure<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let start = NOW.get();
    PEAK.set(start);
    CALLS.set(0);
    let result = work();
    (result, (PEAK.get() - start).unsigned_abs(), CALLS.get())
}

#[test]
fn eleven_bytes_that_claim_four_gigabytes() {
    let cdr = b"\0\x01\0\0\xff\xff\xff\xffabc";
    Registry::builtin();
    let (typed, peak, _) = measure(|| std_msgs::String::decode(cdr));
    assert!(typed.is_err() && peak < 1024, "{peak} bytes");
    let (typed, peak, _) = measure(|| std_msgs::UInt8MultiArray::decode(cdr));
    assert!(typed.is_err() && peak < 1024, "{peak} bytes");
    let (dynamic, peak, _) = measure(|| cdr_to_json("std_msgs/String", cdr));
    assert!(dynamic.is_err() && peak < 4096, "{peak} bytes");
}

/// Every position of a message of zeros gets a large or a plausible length.
fn check_lengths<M: Message>() {
    const BODY: usize = 512;
    /// Struct in memory by its least bytes on the wire, times the levels that may hold reserved space at once.
    const TYPED: usize = 48;
    /// A JSON value with its key by one byte on the wire.
    const JSON: usize = 512;
    for at in (4..96).step_by(4) {
        for length in [3_u32, 16, 60, 120, 508, 1 << 20, u32::MAX] {
            let mut cdr = vec![0; 4 + BODY];
            cdr[1] = 1;
            cdr[at..at + 4].copy_from_slice(&length.to_le_bytes());
            let (_, peak, _) = measure(|| M::decode(&cdr));
            assert!(
                peak <= TYPED * cdr.len(),
                "{}: {peak} bytes at {at} for {length}",
                M::TYPE
            );
            let (_, peak, _) = measure(|| cdr_to_json(M::DEFINITION, &cdr));
            assert!(
                peak <= JSON * cdr.len(),
                "{}: {peak} bytes at {at} for {length}",
                M::TYPE
            );
        }
    }
}

#[test]
fn no_length_makes_a_decoder_allocate_more_than_a_multiple_of_the_message() {
    Registry::builtin();
    every_type!(check_lengths);
}

#[test]
fn a_picture_is_copied_once() {
    let image = sensor_msgs::Image {
        height: 1080,
        width: 1920,
        encoding: "rgb8".to_owned(),
        step: 5760,
        data: vec![7; 1080 * 5760],
        ..Default::default()
    };
    let (cdr, peak, calls) = measure(|| image.encode().unwrap());
    assert_eq!(
        (peak, calls),
        (cdr.len(), 1),
        "bytes and allocations of encoding"
    );
    let (decoded, peak, calls) = measure(|| sensor_msgs::Image::decode(&cdr).unwrap());
    assert_eq!(decoded, image);
    assert!(
        peak < image.data.len() + 4096,
        "decoding took {peak} bytes for {}",
        cdr.len()
    );
    assert!(calls <= 3, "{calls} allocations");
    let parts: Vec<&[u8]> = cdr.chunks(65_000).collect();
    let (decoded, peak, _) = measure(|| sensor_msgs::Image::decode_parts(&parts).unwrap());
    assert_eq!(decoded, image);
    assert!(peak < image.data.len() + 4096, "{peak} bytes from parts");
    let scan = std_msgs::Float32MultiArray {
        data: vec![0.5; 1 << 20],
        ..Default::default()
    };
    let cdr = scan.encode().unwrap();
    let (decoded, peak, _) = measure(|| std_msgs::Float32MultiArray::decode(&cdr).unwrap());
    assert_eq!(decoded, scan);
    assert!(
        peak < 4 * scan.data.len() + 4096,
        "decoding took {peak} bytes"
    );
}

#[test]
fn a_picture_is_read_in_place() {
    let image = sensor_msgs::Image {
        header: std_msgs::Header {
            frame_id: "camera".to_owned(),
            ..Default::default()
        },
        encoding: "rgb8".to_owned(),
        data: vec![7; 1080 * 5760],
        ..Default::default()
    };
    let cdr = image.encode().unwrap();
    let (view, peak, calls) = measure(|| sensor_msgs::Image::view(&cdr).unwrap());
    assert_eq!(
        (peak, calls),
        ("camera".len(), 1),
        "only the header's frame is copied"
    );
    let end = cdr.as_ptr_range().end;
    assert_eq!(view.data.as_ptr_range().end, end, "the bytes that arrived");
    let sound = std_msgs::Int16MultiArray {
        data: vec![-5; 48_000],
        ..Default::default()
    };
    let cdr = sound.encode().unwrap();
    let (view, peak, _) = measure(|| std_msgs::Int16MultiArray::view(&cdr).unwrap());
    assert_eq!((peak, &view.data[..]), (0, &sound.data[..]));
}

#[test]
fn json_has_a_limit_of_values() {
    let mut cdr = std_msgs::Int8MultiArray {
        data: vec![0; (1 << 20) + 1],
        ..Default::default()
    }
    .encode()
    .unwrap();
    let (result, peak, _) = measure(|| cdr_to_json("std_msgs/Int8MultiArray", &cdr));
    assert!(
        result
            .unwrap_err()
            .to_string()
            .ends_with("more than 1048576 values, too many for JSON")
    );
    assert!(peak < 1 << 20, "{peak} bytes");
    cdr.truncate(10);
    assert!(cdr_to_json("std_msgs/Int8MultiArray", &cdr).is_err());
}
