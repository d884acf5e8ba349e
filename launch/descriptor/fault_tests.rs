//! Each kind of fault, one at a time: what is wrong in an otherwise good file, and the finding with its place that must come of it.

use super::tests::{GOOD, read};

/// What to replace in [`GOOD`], by what, and the first error that must come of it, or the first warning if there is none.
const CASES: &[(&str, &str, &str)] = &[
    // The file as such.
    (
        "launch/v1",
        "launch/v2",
        "1:10: error: this reader reads launch/v1, the descriptor is \"launch/v2\"",
    ),
    (
        "name: small\n",
        "",
        "1:1: error: a descriptor needs the field \"name\" (name of the graph)",
    ),
    (
        "name: small",
        "nmae: small",
        "2:1: error: unknown field \"nmae\" (did you mean \"name\"?)",
    ),
    (
        "name: small",
        "name: [",
        "3:1: error: this is not YAML: invalid indentation",
    ),
    (
        "duration: 10s",
        "duration: 10s\nname: other",
        "4:1: error: duplicate key \"name\", first at 2:1",
    ),
    // Units and kinds.
    (
        "response: 600ms",
        "response: 600",
        "24:25: error: expected a duration such as 800ms, found the number 600 (write 600ms or 600s)",
    ),
    (
        "response: 600ms",
        "response: 600 m/s",
        "24:25: error: expected a duration such as 800ms, found \"600 m/s\"",
    ),
    (
        "max: 13.9 m/s",
        "max: 13.9",
        "42:21: error: expected a speed such as 13.9 m/s, found the number 13.9 (write 13.9 m/s or 13.9 km/h)",
    ),
    (
        "max: 13.9 m/s",
        "max: 139 m/s",
        "42:21: error: max is 139 m/s, expected more than 0 and at most 100 m/s",
    ),
    (
        "kv: 48MiB",
        "kv: 48",
        "8:48: error: expected a size such as 180MiB, found the number 48 (write 48MiB or 48MB)",
    ),
    (
        "rate: 50Hz",
        "rate: 50",
        "11:56: error: expected a rate such as 50Hz, found the number 50 (write 50Hz or 50kHz)",
    ),
    (
        "threads: 2",
        "threads: two",
        "9:21: error: expected a whole number, found \"two\"",
    ),
    (
        "threads: 2",
        "threads: 0",
        "9:21: error: 0 is out of range, expected 1 to 1024",
    ),
    (
        "at: 2s..5s",
        "at: 5s..2s",
        "50:11: error: expected a span of time such as 6s..9s, found \"5s..2s\" (the end must come after the start)",
    ),
    (
        "fifo(10)",
        "fifo",
        "14:68: error: a fifo needs its depth (write fifo(10))",
    ),
    (
        "fifo(10)",
        "fifo(0)",
        "14:68: error: a queue of 0, expected 1 to 1000",
    ),
    (
        "event: true, queue",
        "event: yes, queue",
        "14:55: error: expected true or false, found \"yes\"",
    ),
    // Names.
    (
        "queue: latest",
        "queu: latest",
        "35:56: error: unknown field \"queu\" (did you mean \"queue\"?)",
    ),
    (
        "{ image: image,",
        "{ imgae: image,",
        "28:11: error: unknown port \"imgae\" (did you mean \"image\"?)",
    ),
    (
        "detector: detector, language",
        "detektor: detector, language",
        "27:15: error: unknown role \"detektor\" (did you mean \"detector\"?)",
    ),
    (
        "kind: planner-advisor",
        "kind: planner-adviser",
        "32:11: error: unknown kind \"planner-adviser\" (did you mean \"planner-advisor\"?)",
    ),
    (
        "sensor_msgs/Image",
        "sensor_msgs/Imag",
        "12:18: error: unknown message type \"sensor_msgs/Imag\" (did you mean \"sensor_msgs/Image\"?)",
    ),
    (
        "[KEEP, STOP]",
        "[KEEP, STPO]",
        "41:17: error: unknown action \"STPO\" (did you mean \"STOP\"?)",
    ),
    (
        "verdict: ACCEPTED",
        "verdict: ACCEPTD",
        "50:53: error: unknown value \"ACCEPTD\" (did you mean \"ACCEPTED\"?)",
    ),
    // Wiring.
    (
        "ego: odometry }\n    out: { advice",
        "ego: odometri }\n    out: { advice",
        "35:78: error: unknown topic \"odometri\" (did you mean \"odometry\"?)",
    ),
    (
        "{ image: image,",
        "{ image: odometry,",
        "28:18: error: port image of summary expects sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage, the topic odometry carries \
         nav_msgs/msg/Odometry, declared at small.yaml:13:3 (topics that fit: image)",
    ),
    (
        "out: { summary: summary }",
        "out: { summary: advice }",
        "29:21: error: port summary of summary expects llmasos_msgs/msg/PerceptionSummary, the topic advice carries \
         llmasos_msgs/msg/PlannerAdvice, declared at small.yaml:16:3 (topics that fit: summary)",
    ),
    (
        "  - { topic: odometry, jsonl: o.jsonl }\n",
        "",
        "28:30: error: port ego of summary reads odometry, which nobody publishes: no node, no source (add a source, or write /topic if \
         the vehicle publishes it)",
    ),
    (
        "  - { topic: odometry, jsonl: o.jsonl }",
        "  - { topic: odometry, jsonl: o.jsonl }\n  - { topic: summary, jsonl: o.jsonl }",
        "49:5: error: two publishers on summary: this source and port summary of summary at small.yaml:29:21",
    ),
    (
        "  - { topic: odometry, jsonl: o.jsonl }",
        "  - { topic: odometry, jsonl: o.jsonl }\n  - { topic: odometry, wav: a.wav }",
        "49:5: error: this source expects audio_common_msgs/msg/AudioStamped or audio_common_msgs/msg/AudioData or \
         audio_common_msgs/msg/AudioDataStamped, the topic odometry carries nav_msgs/msg/Odometry, declared at small.yaml:13:3 (topics \
         that fit: audio)",
    ),
    (
        "  verdict: { type",
        "  unused: { type: std_msgs/String }\n  verdict: { type",
        "17:3: warning: the topic unused is used by nobody",
    ),
    (
        "{ command: command, summary",
        "{ command: advice, summary",
        "35:20: error: port command of advisor expects llmasos_msgs/msg/SpeechCommand, the topic advice carries \
         llmasos_msgs/msg/PlannerAdvice, declared at small.yaml:16:3 (topics that fit: command)",
    ),
    (
        "in: { advice: advice,",
        "in: {",
        "39:3: error: the gate does not read the advice of advisor (add advice: advice under gate.in)",
    ),
    (
        "in: { advice: advice, command: command,",
        "in: { advice: advice,",
        "39:7: error: the gate needs the port \"command\" (STOP and PULL_OVER come straight from speech)",
    ),
    (
        "max_age: 800ms",
        "max_age: 100ms",
        "12:3: warning: max_age 100ms is shorter than the period at 2Hz (500ms): stale before the next one comes",
    ),
    // Models and budgets.
    (
        "language: language }\n    start_after",
        "language: lang }\n    start_after",
        "33:25: error: unknown model \"lang\" (did you mean \"language\"?)",
    ),
    (
        "use: smollm2",
        "use: smollm",
        "8:20: error: unknown catalogue entry \"smollm\" (did you mean \"smollm2\"?)",
    ),
    (
        "asr: asr, vad: vad }",
        "asr: asr }",
        "19:3: error: speech has the port audio but no model for vad (add vad under models)",
    ),
    (
        "asr: asr, vad",
        "asr: detector, vad",
        "21:20: error: speech needs a model with the role speech-recognition as asr, detector (ssd-mobilenet-v2-coco) is detector",
    ),
    (
        "compute: {",
        "  spare: { use: smollm2 }\ncompute: {",
        "9:17: warning: the model spare is used by no node",
    ),
    (
        "tokens: 40",
        "tokens: 400",
        "37:41: error: 400 tokens take 3478ms at 115 tokens/s, the response must come within 1.2s (at most 138 tokens fit)",
    ),
    (
        "response: 900ms",
        "response: 2500ms",
        "29:21: warning: an answer may take 2.5s, the topic summary lets it live for 2s",
    ),
    (
        "memory: 400MiB",
        "memory: 200MiB",
        "9:32: error: the models need 288MiB together (asr 60MiB, detector 60MiB, language 108MiB, vad 60MiB), compute.memory allows 200MiB",
    ),
    (
        "vad: { use: silero-vad }",
        "vad: { use: absent, fetch: never }",
        "6:15: error: absent is not in the cache and fetch is never (run llmasos model pull absent while there is a network)",
    ),
    (
        "{ detector: detector, language",
        "{ language",
        "25:3: error: summary has the port image but no model for detector (add detector under models)",
    ),
    // Order, time, faults, rules.
    (
        "start_after: { speech",
        "start_after: { speach",
        "34:20: error: unknown node \"speach\" (did you mean \"speech\"?)",
    ),
    (
        "start_after: { speech",
        "start_after: { advisor",
        "34:20: error: start_after goes in a circle: advisor after advisor",
    ),
    (
        "at: 2s..5s",
        "at: 8s..12s",
        "50:5: error: expected 8s..12s, the run ends at 10s",
    ),
    (
        "wav: a.wav, at: 1s",
        "wav: none.wav, at: 1s",
        "46:5: error: none.wav is not there",
    ),
    (
        "wav: a.wav, at: 1s",
        "wav: a.wav, text: b",
        "46:5: error: a source has exactly one of wav, images, jsonl, text, fault, found wav and text",
    ),
    (
        "wav: a.wav, at: 1s",
        "wav: a.wav, rate: 2Hz",
        "46:33: error: a source with wav has no \"rate\" (known: topic, at, until, from, for)",
    ),
    (
        "  - { topic: audio, wav: a.wav, at: 1s }",
        "  - { topic: audio, wav: a.wav }\n  - { fault: kill, node: adviser, at: 1s }",
        "47:5: error: unknown node \"adviser\" (did you mean \"advisor\"?)",
    ),
    (
        "traffic_light: RED",
        "zone: AHEAD, traffic_light: RED",
        "44:5: error: a rule is about a light or about an object, not both (write two rules: either one refuses)",
    ),
    (
        "{ traffic_light: RED, actions",
        "{ actions",
        "44:5: error: this rule has no condition: it would always refuse (add traffic_light, zone, time_to_contact or distance)",
    ),
];

#[test]
fn every_fault_is_found_at_its_place() {
    let mut wrong = Vec::new();
    for (from, to, expected) in CASES {
        assert_eq!(
            GOOD.matches(from).count(),
            1,
            "{from:?} must stand once in the good graph"
        );
        let lines = match read(&GOOD.replace(from, to)) {
            Err(lines) => lines,
            Ok(loaded) => loaded.findings.lines(&loaded.graph.files),
        };
        let strip = |line: &String| {
            line.rsplit_once("/small.yaml:")
                .map_or(line.replacen("small.yaml:", "", 1), |(_, l)| l.to_owned())
        };
        let found: Vec<String> = lines.iter().map(strip).collect();
        let first = |severity: &str| {
            found
                .iter()
                .find(|l| l.contains(severity))
                .map(String::as_str)
        };
        if first(": error: ").or(first(": warning: ")) != Some(*expected) {
            wrong.push(format!(
                "{from:?} -> {to:?}\n  expected {expected}\n  found    {found:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_advisor_needs_a_gate() {
    let start = GOOD.find("gate:\n").unwrap();
    let end = GOOD.find("sources:").unwrap();
    let lines = read(&format!("{}{}", &GOOD[..start], &GOOD[end..])).unwrap_err();
    let message = "31:3: error: advisor is a planner-advisor without a gate: nothing would check its advice (add gate: { in: { advice: advice } })";
    assert!(lines.iter().any(|l| l.ends_with(message)), "{lines:#?}");
}

#[test]
fn several_faults_are_said_at_once() {
    let text = GOOD
        .replace("threads: 2", "threads: two")
        .replace("queue: latest", "queu: latest")
        .replace("[KEEP, STOP]", "[]")
        .replace("600ms", "600");
    let lines = read(&text).unwrap_err();
    assert_eq!(lines.len(), 3, "{lines:#?}");
}

#[test]
fn a_circle_of_nodes_is_shown() {
    let text = GOOD
        .replace(
            "    kind: speech-command\n",
            "    kind: speech-command\n    start_after: { summary: ready }\n",
        )
        .replace(
            "    kind: perception-summary\n",
            "    kind: perception-summary\n    start_after: { advisor: ready }\n",
        );
    let lines = read(&text).unwrap_err();
    assert!(
        lines[0].contains("circle: speech after summary after advisor after speech"),
        "{lines:#?}"
    );
}
