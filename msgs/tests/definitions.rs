//! `.msg` and `.srv` texts by other people: what they say, and mistakes with line and column.

#![allow(clippy::unwrap_used)] // Checks that all tests share are no test functions to clippy.

use llmasos_msgs::definition::{Count, Definition, Literal, Values, parse, parse_service};
use llmasos_msgs::limits::{MAX_DEFINITION_BYTES, MAX_FIELDS};

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
