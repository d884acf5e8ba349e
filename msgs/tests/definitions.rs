//! `.msg` files by other people: mistakes with line and column, folders at run time, definitions that do not fit.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use std::fs;

use llmasos_msgs::definition::{Count, Definition, Literal, Values, parse, parse_service};
use llmasos_msgs::limits::{MAX_DEFINITION_BYTES, MAX_DEPTH, MAX_FIELDS};
use llmasos_msgs::{Registry, RegistryError};
use serde_json::json;

fn definition(name: &str, text: &str) -> Definition {
    parse("my_msgs", name, text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn everything_a_file_can_say() {
    let text = "\
# What it is for.
# Second line.

uint8 A=1   # first
uint8 B = 0x10
int8 MINUS=-5
string HASH=\"a # b\"  # not the comment
string PLAIN= it's here
float64 PI=3.14
bool YES=True
uint8 mode 1 # the mode
other_msgs/Thing[<=3] things
other_msgs/msg/Thing thing
Own[2] own
string<=5[] words
string greeting \"hi, \\\"you\\\"\"
int32[3] triple [1, -2,3]
string[] names ['a', \"b,c\"]
uint8 kind # what; @enum other_msgs/Thing.kind
\tfloat32\t x\t1e-3\r
";
    let found = definition("Every", text);
    assert_eq!(found.comment, "What it is for.\nSecond line.");
    let constants: Vec<(&str, &Literal)> = found
        .constants
        .iter()
        .map(|c| (c.name.as_str(), &c.value))
        .collect();
    assert_eq!(constants[1], ("B", &Literal::Integer(16)));
    assert_eq!(constants[2], ("MINUS", &Literal::Integer(-5)));
    assert_eq!(constants[3], ("HASH", &Literal::Text("a # b".to_owned())));
    assert_eq!(
        constants[4],
        ("PLAIN", &Literal::Text("it's here".to_owned()))
    );
    assert_eq!(constants[6], ("YES", &Literal::Bool(true)));
    let field = |name: &str| found.fields.iter().find(|f| f.name == name).unwrap();
    assert_eq!(field("mode").comment, "the mode");
    assert_eq!(
        field("mode").values,
        Values::Unnamed,
        "constants of another type stand between"
    );
    assert_eq!(field("things").kind.count, Count::Bounded(3));
    assert_eq!(field("things").kind.to_string(), "other_msgs/Thing[<=3]");
    assert_eq!(
        field("thing").kind,
        definition("X", "other_msgs/Thing a").fields[0].kind
    );
    assert_eq!(field("own").kind.to_string(), "my_msgs/Own[2]");
    assert_eq!(field("words").kind.to_string(), "string<=5[]");
    assert_eq!(
        field("greeting").default,
        Some(Literal::Text("hi, \"you\"".to_owned()))
    );
    let triple = [1, -2, 3].map(Literal::Integer).to_vec();
    assert_eq!(field("triple").default, Some(Literal::List(triple)));
    let names = ["a", "b,c"].map(|s| Literal::Text(s.to_owned())).to_vec();
    assert_eq!(field("names").default, Some(Literal::List(names)));
    let elsewhere = Values::Of {
        type_name: "other_msgs/msg/Thing".to_owned(),
        field: "kind".to_owned(),
    };
    assert_eq!(field("kind").values, elsewhere);
    assert_eq!(field("x").default, Some(Literal::Float(1e-3)));
    assert!(definition("Empty", "# nothing\n").is_empty());
    assert_eq!(
        definition("X", "uint8 A=1\nuint8 B=2\nuint8 a").fields[0].values,
        Values::Here(0..2)
    );
}

#[test]
fn mistakes_have_line_and_column() {
    let cases: Vec<(&str, &str)> = vec![
        (
            "int31 a",
            "1:1: `int31` is not a type: did you mean `int32`?",
        ),
        (
            "\n  uint8  1a",
            "2:10: `1a` is not a field name: expected lower case letters, digits and single underscores",
        ),
        ("uint8", "1:6: expected a name after the type `uint8`"),
        ("uint8 # a", "1:7: expected a name after the type `uint8`"),
        ("ä b", "1:1: `ä` is not a type"),
        ("uint8 é", "1:7: `é` is not a field name"),
        (
            "uint8 a\nuint8 a",
            "2:7: `a` is declared twice, first on line 1",
        ),
        (
            "uint8 A=256",
            "1:9: expected a value of type `uint8`, found `256`",
        ),
        (
            "uint8 a 1.5",
            "1:9: expected a value of type `uint8`, found `1.5`",
        ),
        (
            "uint8 a 5 6",
            "1:9: expected a value of type `uint8`, found `5 6`",
        ),
        (
            "int32[3] a [1,2]",
            "1:12: expected a value of type `int32[3]`, found `[1,2]`",
        ),
        (
            "string<=2 a \"abc\"",
            "1:13: expected a value of type `string<=2`, found `\"abc\"`",
        ),
        (
            "bool A=maybe",
            "1:8: expected a value of type `bool`, found `maybe`",
        ),
        ("uint8 lower=1", "1:7: `lower` is not a constant name"),
        (
            "uint8[2] A=1",
            "1:1: a constant is a number, a truth value or a string, found type `uint8[2]`",
        ),
        (
            "my_msgs/Own A=1",
            "1:1: a constant is a number, a truth value or a string, found type `my_msgs/Own`",
        ),
        ("uint8[ a", "1:1: `uint8[` is not a type: missing `]`"),
        (
            "uint8[0] a",
            "1:1: `uint8[0]` is not a type: the size is a number from 1",
        ),
        (
            "uint8[<=] a",
            "1:1: `uint8[<=]` is not a type: the size is a number from 1",
        ),
        (
            "uint8[99999999999999999999] a",
            "1:1: `uint8[99999999999999999999]` is not a type",
        ),
        (
            "string<=x a",
            "1:1: `string<=x` is not a type: the bound is a number from 1",
        ),
        (
            "wstring a",
            "1:1: `wstring` is not a type: ROS 2 implementations disagree",
        ),
        ("a/b/c/D x", "1:1: `a/b/c/D` is not a type"),
        (
            "uint8 a # @enum kind",
            "1:9: expected `@enum Name.field` or `@enum package/Name.field`, found `kind`",
        ),
    ];
    for (text, expected) in cases {
        let error = parse("my_msgs", "Name", text).expect_err(text).to_string();
        assert!(
            error.starts_with(&format!("my_msgs/msg/Name.msg:{expected}")),
            "{text:?}: {error}"
        );
    }
    assert!(parse("My", "Name", "").is_err());
    assert!(parse("my_msgs", "name", "").is_err());
    assert!(parse("my_msgs", "Name", &" ".repeat(MAX_DEFINITION_BYTES + 1)).is_err());
    let many: String = (0..=MAX_FIELDS).map(|n| format!("uint8 a{n}\n")).collect();
    let error = parse("my_msgs", "Name", &many).unwrap_err();
    assert_eq!(error.line, MAX_FIELDS + 1);
}

#[test]
fn a_service_is_three_messages() {
    let text = "# What is asked.\nstring<=9 text\n---  \r\nuint8 OK=0\nuint8 code\nOwn[] own\n";
    let service = parse_service("my_msgs@fork", "Find", text).unwrap();
    assert_eq!(service.id(), "my_msgs@fork/srv/Find");
    assert_eq!(service.request.type_name(), "my_msgs/srv/Find_Request");
    assert_eq!(service.request.file(), "my_msgs@fork/srv/Find.srv");
    assert_eq!(service.request.comment, "What is asked.");
    let response = &service.response;
    assert_eq!(response.id(), "my_msgs@fork/srv/Find_Response");
    assert_eq!(response.constants[0].name, "OK");
    assert_eq!(
        (
            response.fields[1].place.line,
            response.fields[1].place.column
        ),
        (6, 1)
    );
    assert_eq!(response.fields[1].kind.to_string(), "my_msgs/Own[]");
    let event: Vec<String> = service
        .event
        .fields
        .iter()
        .map(|f| format!("{} {}", f.kind, f.name))
        .collect();
    assert_eq!(
        event,
        [
            "service_msgs/ServiceEventInfo info",
            "my_msgs/srv/Find_Request[<=1] request",
            "my_msgs/srv/Find_Response[<=1] response",
        ]
    );
    let empty = parse_service("my_msgs", "Ping", "---").unwrap();
    assert!(empty.request.is_empty() && empty.response.is_empty());
}

#[test]
fn mistakes_in_services_have_line_and_column() {
    const CASES: &[(&str, &str, &str)] = &[
        (
            "no divider",
            "uint8 a\n",
            "2:1: expected a line `---` between request and response, found the end of the file",
        ),
        (
            "an action",
            "int32 order\n---\nint32 sum\n---\nint32 part\n",
            "4:1: expected one line `---`, found a second one; the first is on line 2",
        ),
        (
            "in the request",
            "uint8 a\n uint9 b\n---\n",
            "2:2: `uint9` is not a type: did you mean `uint8`?",
        ),
        (
            "in the response, counted from the start of the file",
            "uint8 a\n\n---\nbool ok\nbool ok\n",
            "5:6: `ok` is declared twice, first on line 4",
        ),
        (
            "the same name on both sides is no mistake, a wrong one is",
            "bool ok\n---\nbool ok\nbool OK\n",
            "4:6: `OK` is not a field name",
        ),
        (
            "indented, which ROS 2 does not take for the divider either",
            " ---\n",
            "2:1: expected a line `---`",
        ),
    ];
    for (why, text, expected) in CASES {
        let result = parse_service("my_msgs", "Name", text);
        let error = result.expect_err(why).to_string();
        let expected = format!("my_msgs/srv/Name.srv:{expected}");
        assert!(error.starts_with(&expected), "{why}: {error}");
    }
    let error = parse_service("my_msgs", "name", "---").unwrap_err();
    assert!(error.to_string().contains("`name` is not a service name"));
    let long = "#".repeat(MAX_DEFINITION_BYTES + 1);
    assert!(parse_service("my_msgs", "Name", &long).is_err());
}

#[test]
fn a_folder_adds_types_at_run_time() {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
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
    write("my_srvs/srv/Find.srv", "---\n  Report r\n");
    let error = registry.load_folder(folder.path()).unwrap_err().to_string();
    assert_eq!(
        error,
        "my_srvs/srv/Find.srv:2:3: no definition of `my_srvs/msg/Report`, the type of `r`: did you mean `my_msgs/msg/Report`?"
    );
    write("my_srvs/srv/Find.srv", "---\n");

    write("my_msgs/msg/Wrong.msg", "uint8 a\nuint9 b\n");
    let error = registry.load_folder(folder.path()).unwrap_err().to_string();
    assert!(
        error.starts_with("my_msgs/msg/Wrong.msg:2:1: `uint9` is not a type"),
        "{error}"
    );
    assert_eq!(
        registry
            .types()
            .filter(|t| t.id.starts_with("my_msgs"))
            .count(),
        2,
        "nothing changed"
    );
    write("my_msgs/msg/Wrong.msg", "\u{feff}");
    fs::write(folder.path().join("my_msgs/msg/Wrong.msg"), [0xff, 0xfe]).unwrap();
    assert!(matches!(
        registry.load_folder(folder.path()),
        Err(RegistryError::Io { .. })
    ));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(
        registry.load_folder(empty.path()),
        Err(RegistryError::NothingThere { .. })
    ));
    assert!(matches!(
        registry.load_folder(&empty.path().join("no")),
        Err(RegistryError::Io { .. })
    ));
}

#[test]
fn definitions_that_do_not_fit_together() {
    let add = |definitions: Vec<Definition>| {
        Registry::builtin()
            .clone()
            .add(definitions)
            .unwrap_err()
            .to_string()
    };
    let error = add(vec![definition("A", "std_msgs/Heder h")]);
    assert_eq!(
        error,
        "my_msgs/msg/A.msg:1:1: no definition of `std_msgs/msg/Heder`, the type of `h`: did you mean `std_msgs/msg/Header`?"
    );
    let error = add(vec![definition("A", "B b"), definition("B", "A[] a")]);
    assert_eq!(
        error,
        "my_msgs/msg/A contains itself: my_msgs/msg/A > my_msgs/msg/B"
    );
    let error = add(vec![definition("A", "A[<=1] a")]);
    assert!(error.contains("contains itself"), "{error}");
    let mut chain: Vec<Definition> = (0..MAX_DEPTH)
        .map(|n| definition(&format!("C{n:02}"), &format!("C{:02} c", n + 1)))
        .collect();
    chain.push(definition(&format!("C{MAX_DEPTH:02}"), "uint8 a"));
    let error = add(chain);
    assert!(
        error.contains("33 levels of messages, expected at most 32"),
        "{error}"
    );
    let error = add(vec![
        definition("A", "B[60000000] b"),
        definition("B", "float64[60000000] c"),
    ]);
    assert!(
        error.contains("bytes at least, expected at most 67108864"),
        "{error}"
    );
    let error = add(vec![definition("A", "uint8 a # @enum std_msgs/UInt8.data")]);
    assert_eq!(
        error,
        "my_msgs/msg/A.a: `@enum` refers to `std_msgs/msg/UInt8.data`, which has no named values"
    );
}
