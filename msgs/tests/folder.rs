//! Folders of definitions at run time: what they add, and what is said when something in them is wrong.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::fs;
use std::path::Path;

use llmasos_msgs::limits::{MAX_DEFINITION_BYTES, MAX_DEPTH};
use llmasos_msgs::{Registry, RegistryError};
use serde_json::json;

fn write(folder: &Path, path: &str, text: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn a_folder_adds_types_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| write(folder.path(), path, text.as_bytes());
    write(
        "my_msgs/msg/Report.msg",
        "uint8 OFF=0\nuint8 ON=1\nuint8 state\nInner[] inner\nstring<=3[<=2] tags\n",
    );
    write(
        "my_msgs/msg/Inner.msg",
        "std_msgs/Header header\nfloat32[2] xy [1, 2]\n",
    );
    write("my_msgs/README", "not a definition");
    write("my_msgs/msg/notes.txt", "not a definition");
    let mut registry = Registry::builtin().clone();
    assert_eq!(registry.load_folder(folder.path()).unwrap(), 2);
    let json = json!({"state_name": "ON", "inner": [{}], "tags": ["a", "bcd"]});
    let cdr = registry.json_to_cdr("my_msgs/Report", &json).unwrap();
    let expected = json!({
        "state": 1, "state_name": "ON",
        "inner": [{"header": {"stamp": {"sec": 0, "nanosec": 0}, "frame_id": ""}, "xy": [1.0, 2.0]}],
        "tags": ["a", "bcd"],
    });
    assert_eq!(
        registry.cdr_to_json("my_msgs/msg/Report", &cdr).unwrap(),
        expected
    );
    for bad in [json!({"tags": ["four"]}), json!({"tags": ["a", "b", "c"]})] {
        assert!(registry.json_to_cdr("my_msgs/Report", &bad).is_err());
    }
    assert!(
        registry
            .hash("my_msgs/Report")
            .unwrap()
            .starts_with("RIHS01_")
    );
    let schema = registry.schema("my_msgs/Report").unwrap();
    assert!(
        schema.contains("\nMSG: my_msgs/Inner\nstd_msgs/Header header\n"),
        "{schema}"
    );
    assert!(
        schema.contains("\nMSG: std_msgs/Header\n")
            && schema.contains("\nMSG: builtin_interfaces/Time\n")
    );
    assert!(Registry::builtin().find("my_msgs/Report").is_none());

    write(
        "my_srvs/srv/Find.srv",
        "my_msgs/Report like\n---\nmy_msgs/Report[] found\n",
    );
    assert_eq!(registry.load_folder(folder.path()).unwrap(), 3);
    let service = registry.find_service("my_srvs::srv::dds_::Find_").unwrap();
    assert_eq!(
        registry.response(service).unwrap().name,
        "my_srvs/srv/Find_Response"
    );
    let json = json!({"found": [{"state_name": "ON"}]});
    let cdr = registry
        .json_to_cdr("my_srvs/srv/Find_Response", &json)
        .unwrap();
    let again = registry
        .cdr_to_json("my_srvs/srv/Find_Response", &cdr)
        .unwrap();
    assert_eq!(again["found"][0]["state"], 1);
    assert!(Registry::builtin().find_service("my_srvs/Find").is_none());
    assert_eq!(
        registry.service_suggestion("my_srvs/Fnd"),
        ": did you mean `my_srvs/srv/Find`?"
    );
}

/// Why, files and their texts, how the error begins.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
);

const MISTAKES: &[Case] = &[
    (
        "an unknown type",
        &[("a/msg/A.msg", "uint8 a\nuint9 b\n")],
        "a/msg/A.msg:2:1: `uint9` is not a type: did you mean `uint8`?",
    ),
    (
        "a message that nobody defined",
        &[("a/msg/A.msg", "# what\n\n  B b\n")],
        "a/msg/A.msg:3:3: no definition of `a/msg/B`, the type of `b`",
    ),
    (
        "a message that is spelled wrong",
        &[("a/msg/A.msg", "uint8 a\nstd_msgs/Heder h")],
        "a/msg/A.msg:2:1: no definition of `std_msgs/msg/Heder`, the type of `h`: did you mean `std_msgs/msg/Header`?",
    ),
    (
        "a message of the response that nobody defined",
        &[("a/srv/S.srv", "uint8 a\n---\n  B b\n")],
        "a/srv/S.srv:3:3: no definition of `a/msg/B`, the type of `b`",
    ),
    (
        "a circle, told where it closes",
        &[
            ("a/msg/A.msg", "uint8 x\nB b"),
            ("a/msg/B.msg", "uint8 x\nuint8 y\nA[] again"),
        ],
        "a/msg/B.msg:3:1: `again` makes a message contain itself: a/msg/A > a/msg/B > a/msg/A",
    ),
    (
        "a circle that does not go through where the search began",
        &[
            ("a/msg/A.msg", "B b"),
            ("a/msg/B.msg", "C c"),
            ("a/msg/C.msg", "B b"),
        ],
        "a/msg/C.msg:1:1: `b` makes a message contain itself: a/msg/B > a/msg/C > a/msg/B",
    ),
    (
        "a message directly in itself, even bounded",
        &[("a/msg/A.msg", "A[<=1] a")],
        "a/msg/A.msg:1:1: `a` makes a message contain itself: a/msg/A > a/msg/A",
    ),
    (
        "arrays whose sizes multiply",
        &[
            ("a/msg/A.msg", "uint8 a\nB[60000000] b"),
            ("a/msg/B.msg", "float64[60000000] c"),
        ],
        "a/msg/B.msg:1:1: `c` makes 480000000 bytes at least, expected at most 67108864",
    ),
    (
        "arrays whose sizes add up",
        &[("a/msg/A.msg", "uint8[40000000] a\nuint8[40000000] b\n")],
        "a/msg/A.msg:2:1: `b` makes 80000000 bytes at least, expected at most 67108864",
    ),
    (
        "an array of none",
        &[("a/msg/A.msg", "uint8[0] a")],
        "a/msg/A.msg:1:1: `uint8[0]` is not a type: the size is a number from 1",
    ),
    (
        "a negative bound",
        &[("a/msg/A.msg", "uint8[<=-1] a")],
        "a/msg/A.msg:1:1: `uint8[<=-1]` is not a type: the size is a number from 1",
    ),
    (
        "a string of nothing",
        &[("a/msg/A.msg", "string<=0 a")],
        "a/msg/A.msg:1:1: `string<=0` is not a type: the bound is a number from 1",
    ),
    (
        "a bound over what a message can hold",
        &[("a/msg/A.msg", "uint8[<=67108865] a")],
        "a/msg/A.msg:1:1: `uint8[<=67108865]` is not a type",
    ),
    (
        "a bound that no computer counts to",
        &[("a/msg/A.msg", "string<=99999999999999999999 a")],
        "a/msg/A.msg:1:1: `string<=99999999999999999999` is not a type",
    ),
    (
        "a bracket left open",
        &[("a/msg/A.msg", "uint8 b\nuint8[3 a")],
        "a/msg/A.msg:2:1: `uint8[3` is not a type: missing `]`",
    ),
    (
        "names of values that do not exist",
        &[(
            "a/msg/A.msg",
            "uint8 b\nuint8 a # @enum std_msgs/UInt8.data",
        )],
        "a/msg/A.msg:2:1: `@enum` of `a` refers to `std_msgs/msg/UInt8.data`, which has no named values",
    ),
    (
        "a service without a divider",
        &[("a/srv/S.srv", "uint8 a\n")],
        "a/srv/S.srv:2:1: expected a line `---`",
    ),
    (
        "a name that ROS 2 does not allow",
        &[("a/msg/wrong.msg", "")],
        "a/msg/wrong.msg:1:1: `wrong` is not a message name: expected a capital",
    ),
    (
        "a package that ROS 2 does not allow",
        &[("A-b/msg/A.msg", "")],
        "A-b/msg/A.msg:1:1: `A-b` is not a package name",
    ),
    (
        "the first of two mistakes, by file name",
        &[("a/msg/B.msg", "x"), ("a/msg/A.msg", "\ny")],
        "a/msg/A.msg:2:1: `y` is not a type",
    ),
];

#[test]
fn mistakes_say_file_line_column_and_what_was_expected() {
    for (why, files, expected) in MISTAKES {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in *files {
            write(folder.path(), path, text.as_bytes());
        }
        let mut registry = Registry::builtin().clone();
        let before = registry.types().count();
        let error = registry
            .load_folder(folder.path())
            .expect_err(why)
            .to_string();
        assert!(error.starts_with(expected), "{why}: {error}");
        assert_eq!(registry.types().count(), before, "{why}: nothing is added");
        assert!(registry.find("std_msgs/Header").is_some(), "{why}");
    }
}

#[test]
fn files_that_are_too_long_or_no_text_or_not_there() {
    let error = |path: &str, bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), path, bytes);
        let mut registry = Registry::builtin().clone();
        registry.load_folder(folder.path()).unwrap_err().to_string()
    };
    assert_eq!(
        error("a/msg/A.msg", "uint8 a\nuint8 é # \u{fc}\u{fc}".as_bytes()),
        "a/msg/A.msg:2:7: `é` is not a field name: expected lower case letters, digits and single underscores"
    );
    assert_eq!(
        error("a/srv/A.srv", b"uint8 a\n# \xc3\xa9\xff"),
        "a/srv/A.srv:2:4: expected UTF-8, found the byte ff"
    );
    let long = vec![b'#'; 2 * MAX_DEFINITION_BYTES];
    assert_eq!(
        error("a/msg/A.msg", &long),
        "a/msg/A.msg:1:1: 262145 bytes, expected at most 262144"
    );
    let found = error("a/msg/A.txt", b"");
    assert!(
        found.contains("no .msg or .srv files; expected ")
            && found.contains("<package>/srv/<Name>.srv"),
        "{found}"
    );
    let nowhere = tempfile::tempdir().unwrap().path().join("no");
    assert!(matches!(
        Registry::builtin().clone().load_folder(&nowhere),
        Err(RegistryError::Io { .. })
    ));
}

#[test]
fn levels_of_messages_have_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..MAX_DEPTH {
        let text = format!("C{:02} c\n", n + 1);
        write(
            folder.path(),
            &format!("a/msg/C{n:02}.msg"),
            text.as_bytes(),
        );
    }
    write(
        folder.path(),
        &format!("a/msg/C{MAX_DEPTH:02}.msg"),
        b"uint8 a\n",
    );
    let mut registry = Registry::default();
    let error = registry.load_folder(folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        "a/msg/C31.msg:1:1: `c` makes 33 levels of messages, expected at most 32"
    );
    fs::remove_file(folder.path().join("a/msg/C00.msg")).unwrap();
    assert_eq!(registry.load_folder(folder.path()).unwrap(), MAX_DEPTH);
}

#[test]
fn an_event_needs_its_package() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a/srv/S.srv", b"---\n");
    let error = Registry::default()
        .load_folder(folder.path())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "a/srv/S.srv:1:1: no definition of `service_msgs/msg/ServiceEventInfo`, the type of `info`"
    );
}
