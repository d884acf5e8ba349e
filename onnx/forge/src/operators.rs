//! Stock operators of ONNX Runtime over stored matrices: products, lookups and norms in whichever storage was chosen.
//!
//! ```text
//!   storage   product                        lookup                 a matrix's constants
//!   blocks    MatMulNBits (+ bias)           GatherBlockQuantized   name u8 [rows, blocks, bytes], .scales, .zero_points
//!   minima    MatMulNBits + means·minima     as int8                name as blocks, .scales, .minima f32 [blocks, rows]
//!   dynamic   DynamicQuantizeMatMul (+ bias)                        name i8 [columns, rows], .scales f32 [rows]
//!   fp32      MatMul, Add | Gemm (table)     Gather                 name f32 [columns, rows]; a table: [rows, columns]
//!   fp16      as fp32                        as fp32                name.half f16 as fp32, Cast ─► name
//! ```
//!
//! MatMulNBits has no fast form of minima (with zero points in floats it unpacks the whole matrix at every call), but they can
//! be left to a second, small product: `Σ (s·q + m)·x = Σ s·(q − 8)·x + Σ_blocks (m + 8·s)·32·mean(x)`. That is exact, reads an
//! eighth more than zero points do, and costs a fifth of a product's time. A table would need it for lookups too; minima are
//! not meant for tables, so a table of them is stored as the int8 nearest to the same weights.

use crate::decoder::{Activation, Coding, Linear, Norm, NormKind, Place, Storage};
use crate::error::ForgeError;
use crate::graph::{GraphBuilder, Node, TensorSpec, float_bytes};
use crate::matrix::{Matrix, Vector, transpose};
use crate::proto::onnx::DataType;
use crate::quantize::{BLOCK, CodeFormat, Codes, quantize};
use crate::static_int8::codes::pair_scales;
use crate::static_int8::half::halves;
use crate::weights::Weights;

/// What a matrix is for; decides how it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Multiplied with.
    Product,
    /// Looked up by row, and perhaps multiplied with too.
    Table,
}

/// A graph under construction, and the weights it takes.
pub(crate) struct Operators<'a> {
    pub(crate) graph: GraphBuilder<'a>,
    pub(crate) weights: &'a dyn Weights,
    /// How matrices are stored.
    pub(crate) coding: &'a dyn Coding,
    /// ε of the norms.
    pub(crate) epsilon: f32,
}

impl<'a> Operators<'a> {
    /// input · matrixᵀ + bias; returns the name of the sum. Several matrices that read the same input are one, the rows of each
    /// below those of the one before, in the storage of the first.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        input: &str,
        linears: &[(Place, &Linear)],
    ) -> Result<String, ForgeError> {
        let storage = linears
            .first()
            .map_or(Storage::Fp32, |(place, _)| self.coding.storage(*place));
        let matrices: Vec<(Place, &Matrix)> = linears
            .iter()
            .map(|(place, linear)| (*place, &linear.matrix))
            .collect();
        self.matrix(name, &matrices, storage, Use::Product)?;
        let bias = self.biases(&format!("{name}.bias"), linears);
        let output = format!("{name}.out");
        match (storage, bias) {
            (Storage::Blocks(format), bias) => {
                let shape = size(&matrices);
                self.block_product([input, name, name], shape, format, bias.as_deref(), &output);
            }
            (Storage::Dynamic, bias) => {
                let scales = format!("{name}.scales");
                let mut inputs = vec![input, name, &scales];
                if let Some(bias) = &bias {
                    // The zero points come before it; there are none.
                    inputs.extend(["", bias]);
                }
                let node = Node::microsoft("DynamicQuantizeMatMul", &inputs, &[&output]);
                self.graph.node(node);
            }
            (Storage::Fp32 | Storage::Fp16, None) => {
                self.graph
                    .node(Node::new("MatMul", &[input, name], &[&output]))
            }
            (Storage::Fp32 | Storage::Fp16, Some(bias)) => {
                let product = format!("{name}.product");
                self.graph
                    .node(Node::new("MatMul", &[input, name], &[&product]));
                self.graph
                    .node(Node::new("Add", &[&product, &bias], &[&output]));
            }
        }
        Ok(output)
    }

    /// Registers the biases one after the other, if all have one.
    fn biases(&mut self, name: &str, linears: &[(Place, &Linear)]) -> Option<String> {
        let biases: Option<Vec<&Vector>> = linears
            .iter()
            .map(|(_, linear)| linear.bias.as_ref())
            .collect();
        let biases = biases?;
        let joined = Vector {
            parts: biases.iter().flat_map(|bias| bias.parts.clone()).collect(),
            plus: biases.first().map_or(0.0, |bias| bias.plus),
        };
        self.vector(name, &joined);
        Some(name.to_string())
    }

    /// The rows of a registered table with the given ids.
    pub(crate) fn lookup(&mut self, table: &str, ids: &str, storage: Storage, output: &str) {
        match storage {
            Storage::Fp32 | Storage::Fp16 => {
                self.graph
                    .node(Node::new("Gather", &[table, ids], &[output]))
            }
            Storage::Blocks(_) | Storage::Dynamic => {
                let format = block_format(storage);
                let (scales, zeros) = (format!("{table}.scales"), format!("{table}.zero_points"));
                let mut inputs = vec![table, ids, &scales];
                if format.has_zero_points() {
                    inputs.push(&zeros);
                }
                let node = Node::microsoft("GatherBlockQuantized", &inputs, &[output])
                    .int("bits", format.bits())
                    .int("block_size", BLOCK as i64);
                self.graph
                    .node(node.int("gather_axis", 0).int("quantize_axis", 1));
            }
        }
    }

    /// input · tableᵀ of one position, [batch, 1, columns] → `output` [batch, 1, rows], from the last position of `input`.
    pub(crate) fn last_by_table(
        &mut self,
        input: &str,
        (table, matrix): (&str, &Matrix),
        bias: Option<&str>,
        storage: Storage,
        output: &str,
    ) {
        let graph = &mut self.graph;
        let last = Node::new("Gather", &[input, "head.last"], &["head.input"]).int("axis", 1);
        match storage {
            Storage::Blocks(_) | Storage::Dynamic => {
                let format = block_format(storage);
                graph.integers("head.last", &[1], &[-1]);
                graph.node(last);
                // A table is stored flat for the lookup, which reads it in place from the mapped file; the view of the head is
                // packed anew by the runtime anyway, so that only one copy stays in memory.
                let (shape, view) = (format!("{table}.shape"), format!("{table}.blocks"));
                let dims = block_dims((matrix.rows(), matrix.columns), format);
                graph.integers(&shape, &[3], &dims);
                graph.node(Node::new("Reshape", &[table, &shape], &[&view]));
                let size = (matrix.rows(), matrix.columns);
                self.block_product(["head.input", &view, table], size, format, bias, output);
            }
            Storage::Fp32 | Storage::Fp16 => {
                // A scalar index drops the axis, so that Gemm can read the embedding transposed instead of storing it twice.
                graph.integers("head.last", &[], &[-1]);
                graph.integers("head.axis", &[1], &[1]);
                graph.node(last);
                let inputs = ["head.input", table, bias.unwrap_or_default()];
                let count = if bias.is_some() { 3 } else { 2 };
                graph.node(Node::new("Gemm", &inputs[..count], &["head.row"]).int("transB", 1));
                graph.node(Node::new(
                    "Unsqueeze",
                    &["head.row", "head.axis"],
                    &[output],
                ));
            }
        }
    }

    /// The norm of `input`; its constants are registered under `name`.
    pub(crate) fn norm(&mut self, kind: NormKind, name: &str, input: &str, norm: &Norm) -> String {
        let (weight, bias) = self.norm_constants(name, norm);
        let output = format!("{name}.out");
        let mut inputs = vec![input, &weight];
        inputs.extend(bias.as_deref());
        let op = match kind {
            NormKind::Rms => "SimplifiedLayerNormalization",
            NormKind::Layer => "LayerNormalization",
        };
        let node = Node::new(op, &inputs, &[&output]).int("axis", -1);
        self.graph
            .node(node.float("epsilon", self.epsilon).int("stash_type", 1));
        output
    }

    /// The norm of residual + delta; the sum goes on as `sum`, if anybody needs it.
    pub(crate) fn skip_norm(
        &mut self,
        kind: NormKind,
        name: &str,
        [residual, delta]: [&str; 2],
        norm: &Norm,
        sum: Option<&str>,
    ) -> String {
        let (weight, bias) = self.norm_constants(name, norm);
        let output = format!("{name}.out");
        let mut inputs = vec![residual, delta, &weight];
        inputs.extend(bias.as_deref());
        let all = [output.as_str(), "", "", sum.unwrap_or_default()];
        let outputs = if sum.is_some() { &all[..] } else { &all[..1] };
        let op = match kind {
            NormKind::Rms => "SkipSimplifiedLayerNormalization",
            NormKind::Layer => "SkipLayerNormalization",
        };
        self.graph
            .node(Node::microsoft(op, &inputs, outputs).float("epsilon", self.epsilon));
        output
    }

    /// The nonlinearity of a feed-forward part.
    pub(crate) fn activation(&mut self, activation: Activation, input: &str, output: &str) {
        let node = match activation {
            Activation::Silu => {
                Node::microsoft("QuickGelu", &[input], &[output]).float("alpha", 1.0)
            }
            Activation::Gelu => Node::new("Gelu", &[input], &[output]).text("approximate", "none"),
            Activation::GeluTanh => {
                Node::new("Gelu", &[input], &[output]).text("approximate", "tanh")
            }
        };
        self.graph.node(node);
    }

    fn norm_constants(&mut self, name: &str, norm: &Norm) -> (String, Option<String>) {
        let weight = format!("{name}.weight");
        self.vector(&weight, &norm.weight);
        let bias = norm.bias.as_ref().map(|bias| {
            let name = format!("{name}.bias");
            self.vector(&name, bias);
            name
        });
        (weight, bias)
    }

    /// Registers a vector.
    pub(crate) fn vector(&mut self, name: &str, vector: &Vector) {
        let (weights, vector) = (self.weights, vector.clone());
        let dims = [vector.length() as i64];
        let tensors = vec![TensorSpec::new(name, DataType::Float, &dims)];
        self.graph.payload(tensors, move || {
            Ok(vec![float_bytes(&vector.floats(weights)?)])
        });
    }

    /// Registers a table in the storage of its place, which is returned.
    pub(crate) fn table(
        &mut self,
        name: &str,
        place: Place,
        matrix: &Matrix,
    ) -> Result<Storage, ForgeError> {
        let storage = self.coding.storage(place).in_blocks();
        self.matrix(name, &[(place, matrix)], storage, Use::Table)?;
        Ok(storage)
    }

    /// Registers a matrix of the rows of several; see the module for the constants.
    fn matrix(
        &mut self,
        name: &str,
        matrices: &[(Place, &Matrix)],
        storage: Storage,
        purpose: Use,
    ) -> Result<(), ForgeError> {
        let owned: Vec<(Place, Matrix)> = matrices
            .iter()
            .map(|(place, matrix)| (*place, (*matrix).clone()))
            .collect();
        match storage {
            Storage::Blocks(format) => {
                for (_, matrix) in matrices {
                    matrix.check_blocks()?;
                }
                self.block_matrix(name, owned, format, purpose);
            }
            Storage::Dynamic => self.byte_matrix(name, owned),
            Storage::Fp32 => self.float_matrix(name, owned, purpose),
            Storage::Fp16 => self.half_matrix(name, owned, purpose),
        }
        Ok(())
    }

    fn block_matrix(
        &mut self,
        name: &str,
        matrices: Vec<(Place, Matrix)>,
        coded: CodeFormat,
        purpose: Use,
    ) {
        let format = match purpose {
            Use::Table => of_table(coded),
            Use::Product => coded,
        };
        let (rows, columns) = size(&matrices);
        let [rows, blocks, block_bytes] = block_dims((rows, columns), format);
        let (flat, solid) = ([rows, blocks * block_bytes], [rows, blocks, block_bytes]);
        let shape = match purpose {
            Use::Table => &flat[..],
            Use::Product => &solid[..],
        };
        let mut tensors = vec![
            TensorSpec::new(name, DataType::Uint8, shape),
            TensorSpec::new(format!("{name}.scales"), DataType::Float, &[rows, blocks]),
        ];
        if format.has_zero_points() {
            let zeros = format!("{name}.zero_points");
            tensors.push(TensorSpec::new(
                zeros,
                DataType::Uint8,
                &[rows, (blocks + 1) / 2],
            ));
        }
        if format.has_minima() {
            let minima = format!("{name}.minima");
            tensors.push(TensorSpec::new(minima, DataType::Float, &[blocks, rows]));
        }
        let (weights, coding) = (self.weights, self.coding);
        self.graph.payload(tensors, move || {
            let mut codes = Codes::default();
            for (place, matrix) in &matrices {
                codes.append(coding.codes(*place, matrix, weights, coded)?);
            }
            if format != coded {
                codes = quantize(&codes.weights(columns, coded), columns, format);
            }
            let mut contents = vec![codes.codes, float_bytes(&codes.scales)];
            if format.has_zero_points() {
                contents.push(codes.zero_points);
            }
            if format.has_minima() {
                let of_means = minima_of_means(&codes.scales, &codes.minima);
                contents.push(float_bytes(&transpose(&of_means, blocks as usize)));
            }
            Ok(contents)
        });
    }

    fn byte_matrix(&mut self, name: &str, matrices: Vec<(Place, Matrix)>) {
        let (rows, columns) = size(&matrices);
        let tensors = vec![
            TensorSpec::new(name, DataType::Int8, &[columns as i64, rows as i64]),
            TensorSpec::new(format!("{name}.scales"), DataType::Float, &[rows as i64]),
        ];
        let weights = self.weights;
        self.graph.payload(tensors, move || {
            let (bytes, scales) = rows_as_bytes(&floats(&matrices, weights)?, columns);
            Ok(vec![bytes, float_bytes(&scales)])
        });
    }

    fn float_matrix(&mut self, name: &str, matrices: Vec<(Place, Matrix)>, purpose: Use) {
        let tensors = vec![TensorSpec::new(
            name,
            DataType::Float,
            &laid(&matrices, purpose),
        )];
        let weights = self.weights;
        self.graph.payload(tensors, move || {
            Ok(vec![float_bytes(&laid_floats(
                &matrices, purpose, weights,
            )?)])
        });
    }

    /// The same in half precision, and a Cast that the runtime computes once, when it opens the graph.
    fn half_matrix(&mut self, name: &str, matrices: Vec<(Place, Matrix)>, purpose: Use) {
        let half = format!("{name}.half");
        let tensors = vec![TensorSpec::new(
            &half,
            DataType::Float16,
            &laid(&matrices, purpose),
        )];
        let (weights, stored) = (self.weights, name.to_string());
        self.graph.payload(tensors, move || {
            let floats = laid_floats(&matrices, purpose, weights)?;
            Ok(vec![halves(&stored, floats.into_iter())?])
        });
        let cast = Node::new("Cast", &[&half], &[name]);
        self.graph.node(cast.int("to", DataType::Float as i64));
    }

    /// MatMulNBits of [input, codes, name of the other constants].
    fn block_product(
        &mut self,
        [input, codes, name]: [&str; 3],
        (rows, columns): (usize, usize),
        format: CodeFormat,
        bias: Option<&str>,
        output: &str,
    ) {
        let (scales, zeros) = (format!("{name}.scales"), format!("{name}.zero_points"));
        let mut inputs = vec![input, codes, &scales];
        if format.has_zero_points() {
            inputs.push(&zeros);
        }
        if let Some(bias) = bias {
            // Zero points and the order of groups come before it.
            inputs.resize(5, "");
            inputs.push(bias);
        }
        let codes_only = format!("{name}.codes");
        let product = if format.has_minima() {
            codes_only.as_str()
        } else {
            output
        };
        let node = Node::microsoft("MatMulNBits", &inputs, &[product])
            .int("K", columns as i64)
            .int("N", rows as i64)
            .int("bits", format.bits())
            .int("block_size", BLOCK as i64);
        self.graph
            .node(node.int("accuracy_level", self.coding.accuracy_level().into()));
        if format.has_minima() {
            self.add_minima(name, input, product, output);
        }
    }

    /// `output` = product + (means of the input's blocks) · minima; see the module.
    fn add_minima(&mut self, name: &str, input: &str, product: &str, output: &str) {
        let [means, minima, sum] =
            ["means", "minima", "offset"].map(|part| format!("{name}.{part}"));
        let block = [BLOCK as i64];
        let pool = Node::new("AveragePool", &[input], &[&means]);
        self.graph
            .node(pool.ints("kernel_shape", &block).ints("strides", &block));
        self.graph
            .node(Node::new("MatMul", &[&means, &minima], &[&sum]));
        self.graph
            .node(Node::new("Add", &[product, &sum], &[output]));
    }
}

/// How tables are stored, for which stock operators have no minima.
fn of_table(format: CodeFormat) -> CodeFormat {
    match format {
        CodeFormat::Int4Minima => CodeFormat::Int8,
        format => format,
    }
}

/// What the mean of a block's inputs is to be multiplied with when its codes count from 8: 32·(m + 8·s).
fn minima_of_means(scales: &[f32], minima: &[f32]) -> Vec<f32> {
    let both = scales.iter().zip(minima);
    both.map(|(scale, minimum)| BLOCK as f32 * (minimum + 8.0 * scale))
        .collect()
}

/// Shape of the codes: [rows, blocks, bytes of a block].
fn block_dims((rows, columns): (usize, usize), format: CodeFormat) -> [i64; 3] {
    [
        rows as i64,
        (columns / BLOCK) as i64,
        format.block_bytes() as i64,
    ]
}

/// The format of a table that is stored in blocks.
fn block_format(storage: Storage) -> CodeFormat {
    match storage {
        Storage::Blocks(format) => of_table(format),
        Storage::Dynamic | Storage::Fp32 | Storage::Fp16 => CodeFormat::Int8,
    }
}

/// Rows and columns of matrices one below the other.
fn size<M: std::borrow::Borrow<Matrix>>(matrices: &[(Place, M)]) -> (usize, usize) {
    let rows = matrices
        .iter()
        .map(|(_, matrix)| matrix.borrow().rows())
        .sum();
    let columns = matrices
        .first()
        .map_or(0, |(_, matrix)| matrix.borrow().columns);
    (rows, columns)
}

/// Shape of floats: rows of a table, columns of a product.
fn laid(matrices: &[(Place, Matrix)], purpose: Use) -> [i64; 2] {
    let (rows, columns) = size(matrices);
    match purpose {
        Use::Table => [rows as i64, columns as i64],
        Use::Product => [columns as i64, rows as i64],
    }
}

/// Floats in the order of that shape.
fn laid_floats(
    matrices: &[(Place, Matrix)],
    purpose: Use,
    weights: &dyn Weights,
) -> Result<Vec<f32>, ForgeError> {
    let (_, columns) = size(matrices);
    let floats = floats(matrices, weights)?;
    Ok(match purpose {
        Use::Table => floats,
        Use::Product => transpose(&floats, columns),
    })
}

fn floats(matrices: &[(Place, Matrix)], weights: &dyn Weights) -> Result<Vec<f32>, ForgeError> {
    let mut all = Vec::new();
    for (_, matrix) in matrices {
        all.append(&mut matrix.floats(weights)?);
    }
    Ok(all)
}

/// Weights `[rows, columns]` as bytes `[columns, rows]`, and the step of each row: the largest weight becomes ±127, or less where two
/// weights of a row would add up to more than computers without VNNI can (see [`pair_scales`]).
fn rows_as_bytes(weights: &[f32], columns: usize) -> (Vec<u8>, Vec<f32>) {
    let columns = columns.max(1);
    let rows = weights.len() / columns;
    let mut bytes = vec![0; weights.len()];
    let mut scales = pair_scales(weights, rows, |at| at / columns);
    let of_rows = weights.chunks_exact(columns).zip(&mut scales);
    for (row, (weights, scale)) in of_rows.enumerate() {
        let largest = weights
            .iter()
            .fold(0.0_f32, |most, weight| most.max(weight.abs()));
        *scale = scale.max(largest / 127.0);
        let inverse = if *scale == 0.0 { 0.0 } else { 1.0 / *scale };
        for (column, weight) in weights.iter().enumerate() {
            bytes[column * rows + row] = ((weight * inverse).round() as i8).cast_unsigned();
        }
    }
    (bytes, scales)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_two_bytes_of_a_row_fit_into_sixteen_bits_with_their_activations() {
        const CASES: [(&[f32], &[i8], &str); 4] = [
            (
                &[1.0, -1.0, 0.5],
                &[64, -64, 32],
                "two as large: a bit less",
            ),
            (
                &[12.7, 0.08, 0.1],
                &[127, 1, 1],
                "one far larger: all of the bits",
            ),
            (&[0.0, 0.0, 0.0], &[0, 0, 0], "nothing"),
            (&[-0.75, 0.25, 0.0], &[-96, 32, 0], "in between"),
        ];
        for (weights, expected, why) in CASES {
            let (bytes, scales) = rows_as_bytes(weights, 3);
            let codes: Vec<i8> = bytes.iter().map(|byte| byte.cast_signed()).collect();
            assert_eq!(codes, expected, "{why}");
            for (code, weight) in codes.iter().zip(weights) {
                let found = f32::from(*code) * scales[0];
                assert!((found - weight).abs() <= 0.51 * scales[0], "{why}: {found}");
            }
        }
        // Bytes of a column stand side by side, with a scale a row.
        let (bytes, scales) = rows_as_bytes(&[1.27, 0.0, 0.0, 2.54], 2);
        assert_eq!(bytes, [127, 0, 0, 127]);
        assert!((scales[0] - 0.01).abs() < 1e-6 && (scales[1] - 0.02).abs() < 1e-6);
    }
}
