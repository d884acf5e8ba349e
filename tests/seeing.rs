//! The detector on photographs: what a person sees on them, with the scores of the reference conversion.

use llmasos_engine::vision::{DetectOptions, Detection, Detector, Picture};

use crate::models::{folder, model, runtime};

fn detect(picture: &str) -> Vec<Detection> {
    let mut detector = Detector::load(&runtime(), &model("ssd-mobilenet-v2-coco")).unwrap();
    let bytes = std::fs::read(folder("street-images").join(picture)).unwrap();
    let picture = Picture::from_compressed(&bytes).unwrap();
    detector
        .detect(&picture, &DetectOptions::default())
        .unwrap()
        .items
}

#[test]
fn a_bus_and_three_people() {
    let found = detect("bus.jpg");
    let of = |label: &str| {
        found
            .iter()
            .filter(|one| one.label == label)
            .collect::<Vec<_>>()
    };
    let (buses, people) = (of("bus"), of("person"));
    assert_eq!((buses.len(), people.len()), (1, 3), "{found:?}");
    // Score and box of the Python conversion of the same weights (bus .83).
    assert!((buses[0].score - 0.83).abs() < 0.03, "{:?}", buses[0]);
    let expected = [11.0, 209.0, 808.0, 756.0];
    let near = buses[0]
        .bbox
        .iter()
        .zip(expected)
        .all(|(a, b): (&f32, f32)| (a - b).abs() <= 8.0);
    assert!(near, "expected {expected:?}, found {:?}", buses[0].bbox);
    assert!(people.iter().all(|one| one.score >= 0.55), "{people:?}");
}

#[test]
fn two_people_in_a_room() {
    let found = detect("zidane.jpg");
    let people = found
        .iter()
        .filter(|one| one.label == "person" && one.score >= 0.8)
        .count();
    assert_eq!(people, 2, "{found:?}");
}
