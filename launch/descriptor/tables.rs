//! The format of descriptors as tables: every key there is, what its value looks like, what it means.
//!
//! Kinds of nodes with their ports have a file of their own, [`super::kinds`]. `if:` may stand in any mapping and is gone before
//! these tables are looked at ([`super::arguments`]).

use super::gate_table::GATE;
use super::kinds::NODES;
use super::ros2::{QOS, ROS2};
use super::shape::{ARG_TYPES, Key, Shape, Table};
use super::units::Dimension;

/// The version this reader reads.
pub const FORMAT: &str = "launch/v1";

pub(super) const fn key(name: &'static str, shape: Shape, help: &'static str) -> Key {
    Key {
        name,
        shape,
        required: false,
        help,
    }
}

pub(super) const fn must(name: &'static str, shape: Shape, help: &'static str) -> Key {
    Key {
        name,
        shape,
        required: true,
        help,
    }
}

pub(super) const fn table(what: &'static str, keys: &'static [&'static [Key]]) -> Table {
    Table {
        what,
        noun: "field",
        keys,
        one_of: &[],
    }
}

pub(super) const DURATION: Shape = Shape::Quantity(Dimension::Duration);
pub(super) const RATE: Shape = Shape::Quantity(Dimension::Rate);
pub(super) const BYTES: Shape = Shape::Quantity(Dimension::Bytes);
const TOPICS: Shape = Shape::Map(&Shape::Fields(&TOPIC));
const ENDPOINTS: Shape = Shape::List(&Shape::Text(256));

/// The whole file.
pub static ROOT: Table = table(
    "a descriptor",
    &[&[
        must(
            "llmasos",
            Shape::Word("format version", &[FORMAT]),
            "version of the format: launch/v1",
        ),
        must("name", Shape::Name, "name of the graph"),
        key(
            "include",
            Shape::Either(&[Shape::List(&Shape::Path), Shape::Path]),
            "files this one builds on; what stands here wins, mapping by mapping",
        ),
        key(
            "profiles",
            Shape::Map(&Shape::Fields(&PROFILE)),
            "variants, chosen with --profile NAME; laid over the rest",
        ),
        key(
            "args",
            Shape::Map(&Shape::Fields(&ARGUMENT)),
            "arguments with type and default, set by name:=value",
        ),
        key("namespace", Shape::Topic, "prefix of every relative topic"),
        key(
            "clock",
            Shape::Either(&[
                Shape::Fields(&CLOCK),
                Shape::Word("clock", &["wall", "recording"]),
            ]),
            "what stamps are compared with",
        ),
        key("zenoh", Shape::Fields(&ZENOH), "how the bus is reached"),
        key(
            "ros2",
            Shape::Fields(&ROS2),
            "how the graph shows itself to ROS 2",
        ),
        key(
            "fetch",
            Shape::Word("fetch policy", FETCH),
            "whether missing models may be downloaded",
        ),
        key(
            "models",
            Shape::Map(&Shape::Fields(&MODEL)),
            "models by the name the nodes use",
        ),
        key(
            "compute",
            Shape::Fields(&COMPUTE),
            "the one thread pool of all models",
        ),
        key("topics", TOPICS, "topic contracts"),
        key("nodes", Shape::Map(&Shape::Kinds(NODES)), "the nodes"),
        key(
            "gate",
            Shape::Fields(&GATE),
            "the gate between advice and planner",
        ),
        key(
            "supervise",
            Shape::Map(&Shape::Fields(&SUPERVISE)),
            "restart policies: default, by node, gate",
        ),
        key(
            "sources",
            Shape::List(&Shape::Fields(&SOURCE)),
            "what is played onto the bus as if it were sensors",
        ),
        key(
            "expect",
            Shape::List(&Shape::Fields(&EXPECT)),
            "what must be seen on the bus; a miss ends with exit code 3",
        ),
        key(
            "duration",
            DURATION,
            "total run time; without it the graph runs until it is stopped",
        ),
    ]],
);

/// `profiles:`.
pub static PROFILES: Shape = Shape::Map(&Shape::Fields(&PROFILE));
/// `args:`.
pub static ARGUMENTS: Shape = Shape::Map(&Shape::Fields(&ARGUMENT));

/// What a profile may change: everything but the format, and what chooses files.
pub static PROFILE: Table = table(
    "a profile",
    &[&[
        key(
            "args",
            Shape::Map(&Shape::Fields(&ARGUMENT_CHANGE)),
            "other defaults",
        ),
        key("namespace", Shape::Topic, "prefix of every relative topic"),
        key("clock", Shape::Condition, "replaces the clock"),
        key("zenoh", Shape::Condition, "laid over zenoh"),
        key("ros2", Shape::Condition, "laid over ros2"),
        key(
            "fetch",
            Shape::Word("fetch policy", FETCH),
            "whether missing models may be downloaded",
        ),
        key("models", Shape::Condition, "laid over models"),
        key("compute", Shape::Condition, "laid over compute"),
        key("topics", Shape::Condition, "laid over topics"),
        key(
            "nodes",
            Shape::Condition,
            "laid over nodes; null removes one",
        ),
        key("gate", Shape::Condition, "laid over the gate"),
        key("supervise", Shape::Condition, "laid over supervise"),
        key("sources", Shape::Condition, "replaces the sources"),
        key("expect", Shape::Condition, "replaces the expectations"),
        key("duration", DURATION, "total run time"),
    ]],
);

/// A declared argument.
pub static ARGUMENT: Table = table(
    "an argument",
    &[
        &[must(
            "type",
            Shape::Word("argument type", ARG_TYPES),
            "its type",
        )],
        ARGUMENT_REST,
    ],
);

static ARGUMENT_CHANGE: Table = table("a change of an argument", &[ARGUMENT_REST]);

const ARGUMENT_REST: &[Key] = &[
    key(
        "default",
        Shape::Scalar,
        "its value when the command line gives none",
    ),
    key("help", Shape::Text(500), "what it is for"),
    key(
        "choices",
        Shape::List(&Shape::Scalar),
        "the values it may have",
    ),
];

/// `clock: { topic: /clock }`.
pub static CLOCK: Table = table(
    "a clock",
    &[&[must(
        "topic",
        Shape::Topic,
        "topic that carries rosgraph_msgs/Clock",
    )]],
);

/// `zenoh:`.
pub static ZENOH: Table = table(
    "the bus",
    &[&[
        key(
            "mode",
            Shape::Word("mode", &["peer", "client"]),
            "peer talks to neighbours, client to a router only",
        ),
        key("listen", ENDPOINTS, "endpoints to listen on"),
        key(
            "connect",
            Shape::Either(&[Shape::Fields(&CONNECT), ENDPOINTS]),
            "endpoints to connect to",
        ),
        key(
            "multicast",
            Shape::Bool,
            "multicast scouting; off keeps computers apart that happen to share a network",
        ),
        key(
            "config",
            Shape::Path,
            "a Zenoh configuration file; excludes the other keys",
        ),
    ]],
);

/// `connect: { try: [...] }`.
pub static CONNECT: Table = table(
    "a connection",
    &[&[must(
        "try",
        ENDPOINTS,
        "tried from the start on: a peer goes on without them, a client waits for one",
    )]],
);

/// Words of `fetch`.
pub const FETCH: &[&str] = &["if-absent", "never"];

/// One entry of `models:`.
pub static MODEL: Table = table(
    "a model",
    &[&[
        must("use", Shape::Name, "name in the model catalogue"),
        key(
            "context",
            Shape::Int(16, 1 << 20),
            "tokens a language model keeps",
        ),
        key("kv", BYTES, "memory for keys and values of that context"),
        key(
            "fetch",
            Shape::Word("fetch policy", FETCH),
            "whether it may be downloaded when missing",
        ),
    ]],
);

/// `compute:`.
pub static COMPUTE: Table = table(
    "compute",
    &[&[
        key(
            "threads",
            Shape::Int(1, 1024),
            "inference threads, shared by all models",
        ),
        key(
            "spin",
            Shape::Word("spinning", &["off", "short", "on"]),
            "how long an idle thread waits before it sleeps",
        ),
        key(
            "memory",
            BYTES,
            "what models and their caches may take together",
        ),
    ]],
);

/// One entry of `topics:`.
pub static TOPIC: Table = table(
    "a topic",
    &[&[
        must("type", Shape::Type, "message type, e.g. std_msgs/String"),
        key("rate", RATE, "expected rate"),
        key(
            "event",
            Shape::Bool,
            "published when something happens: silence is no fault",
        ),
        key("max_age", DURATION, "oldest stamp that may still be used"),
        key(
            "lifespan",
            DURATION,
            "how long after its stamp a message may act",
        ),
        key(
            "accept",
            Shape::List(&Shape::Word("form of payload", &["cdr", "json", "text"])),
            "forms of payload taken; the default is cdr alone",
        ),
        key(
            "queue",
            Shape::Queue,
            "how messages wait for their reader: latest (the default) or fifo(N)",
        ),
        key(
            "qos",
            Shape::Fields(&QOS),
            "quality of service; by default sensor streams are best effort, the rest reliable",
        ),
    ]],
);

/// One entry of `supervise:`.
pub static SUPERVISE: Table = table(
    "a restart policy",
    &[&[
        key(
            "restart",
            Shape::Word("restart policy", &["on-failure", "always", "never"]),
            "when it is started again",
        ),
        key(
            "max",
            Shape::Fields(&MAX),
            "most restarts within a window; then it is given up",
        ),
        key(
            "backoff",
            Shape::Fields(&BACKOFF),
            "wait before a restart, doubled from min to max",
        ),
        key("startup", DURATION, "time until ready"),
        key(
            "silent",
            DURATION,
            "longest silence on a periodic output, or hang of a run",
        ),
    ]],
);

/// `max: { count, within }`.
pub static MAX: Table = table(
    "a restart limit",
    &[&[
        must("count", Shape::Int(0, 1000), "restarts"),
        must("within", DURATION, "window they are counted in"),
    ]],
);

/// `backoff: { min, max }`.
pub static BACKOFF: Table = table(
    "a backoff",
    &[&[
        must("min", DURATION, "wait before the first restart"),
        must("max", DURATION, "longest wait"),
    ]],
);

/// One entry of `sources:`.
pub static SOURCE: Table = Table {
    what: "a source",
    noun: "field",
    keys: &[&[
        key("topic", Shape::Topic, "where it is published"),
        key(
            "wav",
            Shape::Either(&[Shape::Fields(&CLIP), Shape::Path]),
            "a WAV file, played in real time",
        ),
        key(
            "images",
            Shape::Fields(&PICTURES),
            "pictures, one after another and again from the first",
        ),
        key(
            "jsonl",
            Shape::Path,
            "messages, one {\"t_s\", \"data\"} a line; t_s is the time in seconds, or the lines come at rate",
        ),
        key("text", Shape::Text(512), "one text message"),
        key(
            "fault",
            Shape::Word("fault", &["stall", "kill", "panic"]),
            "something goes wrong on purpose",
        ),
        key(
            "at",
            DURATION,
            "when it starts, from the moment all nodes are ready",
        ),
        key("until", DURATION, "when it ends"),
        key("from", DURATION, "skips this much of a recording"),
        key(
            "for",
            DURATION,
            "how much of a recording is played, or how long a stall lasts",
        ),
        key(
            "rate",
            RATE,
            "rate of pictures, or of the lines of a jsonl file without times",
        ),
        key("loop", Shape::Bool, "starts a jsonl file again at its end"),
        key("node", Shape::Name, "the node a fault hits; gate is one"),
        key("model", Shape::Name, "the model a stall hits"),
    ]],
    one_of: &["wav", "images", "jsonl", "text", "fault"],
};

/// A clip of a data entry of the catalogue.
pub static CLIP: Table = table(
    "a clip of the catalogue",
    &[&[
        must(
            "catalogue",
            Shape::Name,
            "name of a data entry of the model catalogue",
        ),
        must("member", Shape::Text(200), "file name inside the entry"),
    ]],
);

/// Pictures of the catalogue or of a folder.
pub static PICTURES: Table = Table {
    what: "a set of pictures",
    noun: "field",
    keys: &[&[
        key(
            "catalogue",
            Shape::Name,
            "name of a data entry of the model catalogue",
        ),
        key(
            "folder",
            Shape::Path,
            "a folder with JPEG or PNG files, in the order of their names",
        ),
        key(
            "members",
            Shape::List(&Shape::Text(200)),
            "only these files, in this order",
        ),
    ]],
    one_of: &["catalogue", "folder"],
};

/// One entry of `expect:`.
pub static EXPECT: Table = table(
    "an expectation",
    &[&[
        key(
            "name",
            Shape::Text(120),
            "what it proves; shown when it passes or misses",
        ),
        must(
            "at",
            Shape::Span,
            "when, from the moment all nodes are ready: 6s..9s",
        ),
        must("topic", Shape::Topic, "where"),
        key(
            "where",
            Shape::Map(&Shape::Condition),
            "conditions on fields of the message",
        ),
        key(
            "count",
            Shape::Either(&[Shape::Fields(&COUNT), Shape::Int(1, 1_000_000)]),
            "how many messages must match; at least one by default",
        ),
        key("never", Shape::Bool, "no message may match"),
        key(
            "latency",
            Shape::Fields(&LATENCY),
            "of every matching message",
        ),
    ]],
);

/// `count: { min, max }`.
pub static COUNT: Table = table(
    "a count",
    &[&[
        key("min", Shape::Int(0, 1_000_000), "at least"),
        key("max", Shape::Int(0, 1_000_000), "at most"),
    ]],
);

/// `latency: { below }`.
pub static LATENCY: Table = table(
    "a latency",
    &[&[must(
        "below",
        DURATION,
        "from the input's arrival to this message",
    )]],
);
