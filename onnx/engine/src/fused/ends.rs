//! The operators before and after the blocks: `Embedding`, `RotaryAngles`, `Head`.

use std::sync::Arc;

use llmasos_kernels::head::{embed, head};
use llmasos_kernels::norm::{Norm, rotary_angles};
use llmasos_kernels::pack::Packed;
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::{Float32, Int32, Int64, Uint8};

use super::inputs::{
    constant, no_hidden_inputs, norm, norm_kind, number, optional, packed, size, tensor,
};
use super::{SessionThreads, Shared, failed};

/// Rows of the table of embeddings, and of positions where a model has such a table.
pub(super) struct Embedding;

impl Operator for Embedding {
    type Kernel<'a> = EmbeddingKernel<'a>;

    fn name(&self) -> &str {
        "Embedding"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Int64),
            OperatorInput::required(Uint8),
            OperatorInput::optional(Int32),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> ort::Result<EmbeddingKernel<'a>> {
        let (rows, columns) = (size(node, "rows")?, size(node, "columns")?);
        Ok(EmbeddingKernel {
            table: packed(node, 1, "table", (rows, columns))?,
            positions: optional(node, 3),
            scale: number(node, "scale")?,
            is_checked: false,
        })
    }
}

/// See [`Embedding`].
pub(super) struct EmbeddingKernel<'a> {
    table: Packed<'a>,
    positions: Option<&'a [f32]>,
    scale: f32,
    is_checked: bool,
}

impl Kernel for EmbeddingKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        if !self.is_checked {
            no_hidden_inputs(context, &[(3, self.positions.is_some())])?;
            self.is_checked = true;
        }
        let ids = context.input(0)?;
        let (_, ids) = tensor::<i64>(&ids, "input_ids")?;
        let columns = self.table.columns();
        let mut out = context
            .output(0, [ids.len(), columns])?
            .ok_or_else(|| failed("the output is missing"))?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        embed(&self.table, ids, self.scale, out).map_err(failed)?;
        if let Some(table) = self.positions {
            let positions = context.input(2)?;
            let (_, positions) = tensor::<i32>(&positions, "positions")?;
            add_positions(table, positions, columns, out)?;
        }
        Ok(())
    }
}

/// Adds each row's position embedding.
fn add_positions(
    table: &[f32],
    positions: &[i32],
    columns: usize,
    out: &mut [f32],
) -> ort::Result<()> {
    let rows = table.len() / columns;
    for (position, out) in positions.iter().zip(out.chunks_exact_mut(columns)) {
        let row = usize::try_from(*position)
            .ok()
            .filter(|row| *row < rows)
            .ok_or_else(|| failed(format!("position: expected 0..{rows}, found {position}")))?;
        for (out, value) in out.iter_mut().zip(&table[row * columns..]) {
            *out += value;
        }
    }
    Ok(())
}

/// cos and sin of the rows' positions, once for all blocks with the same frequencies.
pub(super) struct RotaryAngles;

impl Operator for RotaryAngles {
    type Kernel<'a> = AnglesKernel<'a>;

    fn name(&self) -> &str {
        "RotaryAngles"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Int32),
            OperatorInput::required(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> ort::Result<AnglesKernel<'a>> {
        let frequencies: &[f32] = constant(node, 1, "inverse_frequencies")?;
        if frequencies.is_empty() {
            return Err(failed(
                "input 1, inverse_frequencies: expected some, found none",
            ));
        }
        Ok(AnglesKernel(frequencies))
    }
}

/// See [`RotaryAngles`].
pub(super) struct AnglesKernel<'a>(&'a [f32]);

impl Kernel for AnglesKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let positions = context.input(0)?;
        let (_, positions) = tensor::<i32>(&positions, "positions")?;
        let mut out = context
            .output(0, [positions.len(), 2 * self.0.len()])?
            .ok_or_else(|| failed("the output is missing"))?;
        let (_, out) = out.try_extract_tensor_mut::<f32>()?;
        rotary_angles(positions, self.0, out);
        Ok(())
    }
}

/// The last norm and the scores of the rows that somebody waits for.
pub(super) struct Head(pub(super) Arc<Shared>);

impl Operator for Head {
    type Kernel<'a> = HeadKernel<'a>;

    fn name(&self) -> &str {
        "Head"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [
            OperatorInput::required(Float32),
            OperatorInput::required(Int32),
            OperatorInput::required(Float32),
            OperatorInput::optional(Float32),
            OperatorInput::required(Uint8),
            OperatorInput::optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> ort::Result<HeadKernel<'a>> {
        let (kind, epsilon) = (norm_kind(node)?, number(node, "epsilon")?);
        let norm = norm(node, (2, 3), "norm", kind, epsilon)?;
        Ok(HeadKernel {
            table: packed(node, 4, "table", (size(node, "rows")?, norm.weight.len()))?,
            norm,
            bias: optional(node, 5),
            shared: Arc::clone(&self.0),
            is_checked: false,
        })
    }
}

/// See [`Head`].
pub(super) struct HeadKernel<'a> {
    norm: Norm<'a>,
    table: Packed<'a>,
    bias: Option<&'a [f32]>,
    shared: Arc<Shared>,
    is_checked: bool,
}

impl Kernel for HeadKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        if !self.is_checked {
            let taken = [(3, self.norm.bias.is_some()), (5, self.bias.is_some())];
            no_hidden_inputs(context, &taken)?;
            self.is_checked = true;
        }
        let (x, outputs) = (context.input(0)?, context.input(1)?);
        let (_, x) = tensor::<f32>(&x, "x")?;
        let (_, outputs) = tensor::<i32>(&outputs, "outputs")?;
        let mut scores = context
            .output(0, [outputs.len(), self.table.rows()])?
            .ok_or_else(|| failed("the output is missing"))?;
        let (_, scores) = scores.try_extract_tensor_mut::<f32>()?;
        let state = &mut *self.shared.state();
        // As the blocks of steps with so many rows do.
        let together = state.pace.together(outputs.len());
        let threads = SessionThreads {
            context,
            count: if together { self.shared.threads } else { 1 },
        };
        head(
            (x, outputs),
            &self.norm,
            &self.table,
            self.bias,
            scores,
            &mut state.workspace,
            &threads,
        )
        .map_err(failed)
    }
}
