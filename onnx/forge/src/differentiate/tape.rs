//! Where rules write: the builder, the shapes of all values, and the few operations that every rule needs.

use std::collections::BTreeMap;

use super::DifferentiateError;
use super::shape::{Shape, Size, broadcast, infer, text};
use crate::graph::{GraphBuilder, Node};
use crate::proto::onnx::{DimensionValue, NodeProto, TypeValue, ValueInfoProto};

/// A rule: from the gradient of the output to those of the inputs.
pub(super) type Rule = fn(&mut Tape<'_, '_>, &Call<'_>, &str) -> Gradients;

/// One entry per input; `None` where no gradient is wanted.
pub(super) type Gradients = Result<Vec<Option<String>>, DifferentiateError>;

/// A node that is visited.
pub(super) struct Call<'n> {
    pub(super) node: &'n NodeProto,
    /// Whether somebody needs the gradient of each input.
    pub(super) wanted: &'n [bool],
}

impl Call<'_> {
    pub(super) fn input(&self, index: usize) -> &str {
        self.node.input.get(index).map_or("", String::as_str)
    }

    pub(super) fn output(&self) -> &str {
        self.node.output.first().map_or("", String::as_str)
    }

    /// An integer attribute.
    pub(super) fn int(&self, name: &str) -> Option<i64> {
        int(self.node, name)
    }

    /// A float attribute.
    pub(super) fn float(&self, name: &str) -> Option<f32> {
        let mut attributes = self.node.attribute.iter();
        attributes.find(|attribute| attribute.name == name)?.f
    }

    pub(super) fn unsupported(
        &self,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> DifferentiateError {
        DifferentiateError::Unsupported {
            node: self.node.name.clone(),
            operator: self.node.op_type.clone(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The gradient of the only input that can have one.
    pub(super) fn only(&self, gradient: String) -> Vec<Option<String>> {
        let mut all = vec![None; self.wanted.len()];
        all[0] = Some(gradient);
        all
    }
}

/// An integer attribute of a node.
pub(super) fn int(node: &NodeProto, name: &str) -> Option<i64> {
    let mut attributes = node.attribute.iter();
    attributes.find(|attribute| attribute.name == name)?.i
}

/// A list attribute of a node.
pub(super) fn ints<'n>(node: &'n NodeProto, name: &str) -> Option<&'n [i64]> {
    let mut attributes = node.attribute.iter();
    let found = attributes.find(|attribute| attribute.name == name)?;
    Some(&found.ints)
}

/// The graph while gradients are written into it.
pub(super) struct Tape<'b, 'a> {
    graph: &'b mut GraphBuilder<'a>,
    shapes: BTreeMap<String, Shape>,
    /// Names of scalars and lists made so far, by their bits and elements.
    scalars: BTreeMap<u32, String>,
    lists: BTreeMap<Vec<i64>, String>,
    count: usize,
    /// The node whose rule is being applied, for names and errors.
    node: String,
}

impl<'b, 'a> Tape<'b, 'a> {
    /// Infers the shapes of everything in the graph so far.
    pub(super) fn new(graph: &'b mut GraphBuilder<'a>) -> Result<Self, DifferentiateError> {
        let mut shapes = BTreeMap::new();
        for input in &graph.so_far().inputs {
            if let Some(shape) = declared(input) {
                shapes.insert(input.name.clone(), shape);
            }
        }
        for tensor in graph.so_far().payloads.iter().flat_map(|p| &p.tensors) {
            let shape = tensor.dims.iter().map(|dim| Size::Fixed(*dim)).collect();
            shapes.insert(tensor.name.clone(), shape);
        }
        let mut tape = Tape {
            graph,
            shapes,
            scalars: BTreeMap::new(),
            lists: BTreeMap::new(),
            count: 0,
            node: String::new(),
        };
        for node in tape.graph.so_far().nodes.clone() {
            tape.learn(&node)?;
        }
        Ok(tape)
    }

    /// Says which node is being visited.
    pub(super) fn at(&mut self, node: &NodeProto) {
        self.node.clone_from(&node.name);
    }

    /// Infers the shapes of a node's outputs, as far as its operator is known.
    fn learn(&mut self, node: &NodeProto) -> Result<(), DifferentiateError> {
        let inferred = infer(node, &|value| self.shapes.get(value).cloned(), &|value| {
            self.graph.integers_of(value).map(<[i64]>::to_vec)
        })?;
        for (output, shape) in node.output.iter().zip(inferred) {
            if let Some(shape) = shape {
                self.shapes.insert(output.clone(), shape);
            }
        }
        Ok(())
    }

    /// The shape of a value.
    pub(super) fn shape(&self, value: &str) -> Result<Shape, DifferentiateError> {
        let shape = self.shapes.get(value).cloned();
        shape.ok_or_else(|| DifferentiateError::UnknownShape {
            node: self.node.clone(),
            value: value.to_string(),
        })
    }

    /// Values of a constant list of integers.
    pub(super) fn integers_of(&self, value: &str) -> Option<Vec<i64>> {
        self.graph.integers_of(value).map(<[i64]>::to_vec)
    }

    /// Adds a node with one output, whose name is returned.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str]) -> Result<String, DifferentiateError> {
        self.op_with(op, inputs, |node| node)
    }

    /// The same with attributes.
    pub(super) fn op_with(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: impl FnOnce(Node) -> Node,
    ) -> Result<String, DifferentiateError> {
        let output = self.fresh();
        let node = attributes(Node::new(op, inputs, &[&output]));
        self.learn(&node.0)?;
        self.graph.node(node);
        Ok(output)
    }

    /// Adds a node with several outputs.
    pub(super) fn op_many(
        &mut self,
        op: &str,
        inputs: &[&str],
        outputs: usize,
        attributes: impl FnOnce(Node) -> Node,
    ) -> Result<Vec<String>, DifferentiateError> {
        let outputs: Vec<String> = (0..outputs).map(|_| self.fresh()).collect();
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let node = attributes(Node::new(op, inputs, &names));
        self.learn(&node.0)?;
        self.graph.node(node);
        Ok(outputs)
    }

    /// A scalar constant.
    pub(super) fn scalar(&mut self, value: f32) -> String {
        if let Some(name) = self.scalars.get(&value.to_bits()) {
            return name.clone();
        }
        let name = self.fresh();
        self.graph.floats(&name, &[], &[value]);
        self.shapes.insert(name.clone(), Vec::new());
        self.scalars.insert(value.to_bits(), name.clone());
        name
    }

    /// A constant list of integers.
    pub(super) fn list(&mut self, values: &[i64]) -> String {
        if let Some(name) = self.lists.get(values) {
            return name.clone();
        }
        let name = self.fresh();
        let length = values.len() as i64;
        self.graph.integers(&name, &[length], values);
        self.shapes.insert(name.clone(), vec![Size::Fixed(length)]);
        self.lists.insert(values.to_vec(), name.clone());
        name
    }

    /// The shape of `value` as a value itself: a constant if all sizes are known.
    pub(super) fn shape_value(&mut self, value: &str) -> Result<String, DifferentiateError> {
        match fixed(&self.shape(value)?) {
            Some(sizes) => Ok(self.list(&sizes)),
            None => self.op("Shape", &[value]),
        }
    }

    /// Zeros in the shape of `value`.
    pub(super) fn zeros_like(&mut self, value: &str) -> Result<String, DifferentiateError> {
        let shape = self.shape_value(value)?;
        let output = self.op("ConstantOfShape", &[&shape])?;
        let same = self.shape(value)?;
        self.shapes.insert(output.clone(), same);
        Ok(output)
    }

    /// `gradient` in the full shape of `value`.
    pub(super) fn full(
        &mut self,
        gradient: &str,
        value: &str,
    ) -> Result<String, DifferentiateError> {
        let target = self.shape(value)?;
        if self.shape(gradient)? == target {
            return Ok(gradient.to_string());
        }
        let shape = self.shape_value(value)?;
        let output = self.op("Expand", &[gradient, &shape])?;
        self.shapes.insert(output.clone(), target);
        Ok(output)
    }

    /// The gradient of an input that was broadcast: `gradient`, which belongs to `output` or broadcasts to it, summed over
    /// the axes that `input` does not have. May stay narrower than `input`.
    pub(super) fn fit(
        &mut self,
        gradient: &str,
        output: &str,
        input: &str,
    ) -> Result<String, DifferentiateError> {
        let (wide, narrow) = (self.shape(output)?, self.shape(input)?);
        let found = self.shape(gradient)?;
        if wide == narrow && broadcast(&found, &narrow).as_ref() == Some(&narrow) {
            return Ok(gradient.to_string());
        }
        if broadcast(&found, &wide).as_ref() != Some(&wide) {
            return Err(DifferentiateError::Shapes {
                node: self.node.clone(),
                left: text(&found),
                right: text(&wide),
            });
        }
        let gradient = self.full(gradient, output)?;
        let extra = wide.len() - narrow.len();
        let ones = narrow.iter().zip(&wide[extra..]).enumerate();
        let stretched = ones.filter(|(_, (narrow, wide))| narrow != wide);
        let stretched: Vec<i64> = stretched.map(|(axis, _)| (axis + extra) as i64).collect();
        let mut sum = gradient;
        if !stretched.is_empty() {
            let axes = self.list(&stretched);
            sum = self.op_with("ReduceSum", &[&sum, &axes], |node| node.int("keepdims", 1))?;
        }
        if extra > 0 {
            let axes = self.list(&(0..extra as i64).collect::<Vec<_>>());
            sum = self.op_with("ReduceSum", &[&sum, &axes], |node| node.int("keepdims", 0))?;
        }
        Ok(sum)
    }

    /// States that a value made by a node of unknown sizes has the shape of another.
    pub(super) fn assume_like(
        &mut self,
        value: &str,
        like: &str,
    ) -> Result<(), DifferentiateError> {
        let shape = self.shape(like)?;
        self.shapes.insert(value.to_string(), shape);
        Ok(())
    }

    /// States that a value is another one with all axes but the last made one.
    pub(super) fn assume_flat(&mut self, value: &str, of: &str) -> Result<(), DifferentiateError> {
        let shape = self.shape(of)?;
        let rows = shape.iter().rev().skip(1).map(|size| match size {
            Size::Fixed(size) => size.to_string(),
            Size::Named(name) => name.clone(),
        });
        // Equal outer sizes give equal names, so that two flat values of one stack go together.
        let rows = Size::Named(rows.collect::<Vec<_>>().join("*"));
        let columns = shape.last().cloned().unwrap_or(Size::Fixed(1));
        self.shapes.insert(value.to_string(), vec![rows, columns]);
        Ok(())
    }

    /// `gradient`, finished: in the shape of `parameter`.
    pub(super) fn finished(
        &mut self,
        gradient: &str,
        parameter: &str,
    ) -> Result<String, DifferentiateError> {
        self.node = format!("d.{parameter}");
        self.full(gradient, parameter)
    }

    /// Swaps the last two axes.
    pub(super) fn transposed(&mut self, value: &str) -> Result<String, DifferentiateError> {
        let rank = self.shape(value)?.len() as i64;
        let mut order: Vec<i64> = (0..rank).collect();
        order.swap(rank as usize - 2, rank as usize - 1);
        self.op_with("Transpose", &[value], |node| node.ints("perm", &order))
    }

    fn fresh(&mut self) -> String {
        loop {
            let name = format!("d.{}", self.count);
            self.count += 1;
            if !self.graph.is_defined(&name) {
                return name;
            }
        }
    }
}

/// All sizes, if they are known.
pub(super) fn fixed(shape: &Shape) -> Option<Vec<i64>> {
    shape
        .iter()
        .map(|size| match size {
            Size::Fixed(size) => Some(*size),
            Size::Named(_) => None,
        })
        .collect()
}

/// The shape of an input as it is declared.
fn declared(input: &ValueInfoProto) -> Option<Shape> {
    let TypeValue::Tensor(tensor) = input.r#type.as_ref()?.value.as_ref()?;
    let dims = &tensor.shape.as_ref()?.dim;
    dims.iter()
        .map(|dim| match dim.value.as_ref()? {
            DimensionValue::Size(size) => Some(Size::Fixed(*size)),
            DimensionValue::Symbol(name) => Some(Size::Named(name.clone())),
        })
        .collect()
}
