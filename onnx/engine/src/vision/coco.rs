//! The 90 label ids of COCO as detectors of the TensorFlow model zoo number them.
//!
//! The data set was announced with 91 names and published with 80 of them; the ids of the other ten were kept empty, and id 0
//! is the background. Source: `mscoco_label_map.pbtxt` of the TensorFlow object detection API.

/// Name by id; an empty name is an id that the data set does not use.
pub const COCO_90: [&str; 91] = [
    "",
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "train",
    "truck",
    "boat",
    "traffic light",
    "fire hydrant",
    "",
    "stop sign",
    "parking meter",
    "bench",
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "",
    "backpack",
    "umbrella",
    "",
    "",
    "handbag",
    "tie",
    "suitcase",
    "frisbee",
    "skis",
    "snowboard",
    "sports ball",
    "kite",
    "baseball bat",
    "baseball glove",
    "skateboard",
    "surfboard",
    "tennis racket",
    "bottle",
    "",
    "wine glass",
    "cup",
    "fork",
    "knife",
    "spoon",
    "bowl",
    "banana",
    "apple",
    "sandwich",
    "orange",
    "broccoli",
    "carrot",
    "hot dog",
    "pizza",
    "donut",
    "cake",
    "chair",
    "couch",
    "potted plant",
    "bed",
    "",
    "dining table",
    "",
    "",
    "toilet",
    "",
    "tv",
    "laptop",
    "mouse",
    "remote",
    "keyboard",
    "cell phone",
    "microwave",
    "oven",
    "toaster",
    "sink",
    "refrigerator",
    "",
    "book",
    "clock",
    "vase",
    "scissors",
    "teddy bear",
    "hair drier",
    "toothbrush",
];

/// The name of an id that the data set uses.
#[must_use]
pub fn coco_label(id: u32) -> Option<&'static str> {
    COCO_90
        .get(id as usize)
        .copied()
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eighty_names_and_the_ids_that_drivers_care_about() {
        assert_eq!(COCO_90.iter().filter(|name| !name.is_empty()).count(), 80);
        let cases = [
            (0, None),
            (1, Some("person")),
            (2, Some("bicycle")),
            (3, Some("car")),
            (6, Some("bus")),
            (8, Some("truck")),
            (10, Some("traffic light")),
            (12, None),
            (13, Some("stop sign")),
            (18, Some("dog")),
            (25, Some("giraffe")),
            (44, Some("bottle")),
            (62, Some("chair")),
            (72, Some("tv")),
            (84, Some("book")),
            (90, Some("toothbrush")),
            (91, None),
            (u32::MAX, None),
        ];
        for (id, name) in cases {
            assert_eq!(coco_label(id), name, "{id}");
        }
    }
}
