//! Graphs of a few nodes for the tests of sessions, written by hand as protobuf (field numbers of onnx.proto), because the
//! crate under test must not depend on the one that writes graphs.

/// Element types of onnx.proto.
pub(crate) const F32: u64 = 1;
const I64: u64 = 7;
const BOOL: u64 = 9;

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field that is a number.
fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value, &mut out);
    out
}

/// A field that is bytes, text or a message.
fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(content.as_ref().len() as u64, &mut out);
    out.extend_from_slice(content.as_ref());
    out
}

/// A typed name; `None` is an axis left open.
fn value_info(name: &str, element: u64, dims: &[Option<u64>]) -> Vec<u8> {
    let axes: Vec<u8> = dims
        .iter()
        .flat_map(|dim| bytes(1, dim.map_or(bytes(2, "n"), |size| number(1, size))))
        .collect();
    let tensor = bytes(1, [number(1, element), bytes(2, axes)].concat());
    [bytes(1, name), bytes(2, tensor)].concat()
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<u8>) -> Vec<u8> {
    let mut out: Vec<u8> = inputs.iter().flat_map(|name| bytes(1, name)).collect();
    out.extend(outputs.iter().flat_map(|name| bytes(2, name)));
    out.extend(bytes(4, op));
    out.extend(attributes);
    bytes(1, out)
}

fn model(graph: Vec<u8>) -> Vec<u8> {
    let opset = bytes(8, number(2, 21));
    [number(1, 10), opset, bytes(7, graph)].concat()
}

/// `sum = x + y`, both `f32[1,n]`.
pub(crate) fn add() -> Vec<u8> {
    let row = [Some(1), None];
    model(
        [
            node("Add", &["x", "y"], &["sum"], Vec::new()),
            bytes(2, "add"),
            bytes(11, value_info("x", F32, &row)),
            bytes(11, value_info("y", F32, &row)),
            bytes(12, value_info("sum", F32, &row)),
        ]
        .concat(),
    )
}

/// `y` = the cosine of `x`, `rounds` times over, in a loop: minutes of work for a large number.
pub(crate) fn endless(rounds: i64) -> Vec<u8> {
    let one = [Some(1)];
    let body = [
        node("Cos", &["v_in"], &["v_out"], Vec::new()),
        node("Identity", &["go_in"], &["go_out"], Vec::new()),
        bytes(2, "body"),
        bytes(11, value_info("round", I64, &[])),
        bytes(11, value_info("go_in", BOOL, &[])),
        bytes(11, value_info("v_in", F32, &one)),
        bytes(12, value_info("go_out", BOOL, &[])),
        bytes(12, value_info("v_out", F32, &one)),
    ]
    .concat();
    let attribute = bytes(
        5,
        [
            bytes(1, "body"),
            bytes(6, body),
            number(20, 5 /* a graph */),
        ]
        .concat(),
    );
    let constant = |name: &str, element, raw: &[u8]| {
        bytes(
            5,
            [number(2, element), bytes(8, name), bytes(9, raw)].concat(),
        )
    };
    model(
        [
            node("Loop", &["rounds", "go", "x"], &["y"], attribute),
            bytes(2, "endless"),
            constant("rounds", I64, &rounds.to_le_bytes()),
            constant("go", BOOL, &[1]),
            bytes(11, value_info("x", F32, &one)),
            bytes(12, value_info("y", F32, &one)),
        ]
        .concat(),
    )
}

/// An encoder of width 3: the vector of a token is its id, its mask and its type. Inputs `i64[n,n]`, output `f32[1,S,3]`.
pub(crate) fn ids_as_vectors() -> Vec<u8> {
    const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];
    let integer = |name: &str, value: i64| {
        let value = number(3, value as u64);
        bytes(
            5,
            [bytes(1, name), value, number(20, 2 /* an integer */)].concat(),
        )
    };
    let cast = |name: &str| {
        let to = integer("to", F32 as i64);
        node("Cast", &[name], &[&format!("{name}_f32")], to)
    };
    let casts: Vec<String> = INPUTS.iter().map(|name| format!("{name}_f32")).collect();
    let casts: Vec<&str> = casts.iter().map(String::as_str).collect();
    let side_by_side = [integer("axis", -1), integer("new_axis", 1)].concat();
    let open = [None, None];
    model(
        [
            INPUTS.map(cast).concat(),
            node("SequenceConstruct", &casts, &["columns"], Vec::new()),
            node(
                "ConcatFromSequence",
                &["columns"],
                &["last_hidden_state"],
                side_by_side,
            ),
            bytes(2, "ids_as_vectors"),
            INPUTS
                .map(|name| bytes(11, value_info(name, I64, &open)))
                .concat(),
            bytes(
                12,
                value_info("last_hidden_state", F32, &[None, None, Some(3)]),
            ),
        ]
        .concat(),
    )
}
