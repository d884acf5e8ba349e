//! Words for road users, shared by the sentence and the advice so that they call a thing by one name.

use llmasos_msgs::autoware_perception_msgs::ObjectClassification;

/// English noun of an `ObjectClassification` label, singular.
pub fn noun(label: u8) -> &'static str {
    match label {
        ObjectClassification::CAR => "car",
        ObjectClassification::TRUCK => "truck",
        ObjectClassification::BUS => "bus",
        ObjectClassification::TRAILER => "trailer",
        ObjectClassification::MOTORCYCLE => "motorcycle",
        ObjectClassification::BICYCLE => "cyclist",
        ObjectClassification::PEDESTRIAN => "pedestrian",
        ObjectClassification::ANIMAL => "animal",
        _ => "object",
    }
}

/// "a" or "an".
pub fn article(noun: &str) -> &'static str {
    if noun.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    }
}
