//! The operator `DecoderBlock`: reads its weights once, checks that they fit together, and runs them.

use std::sync::Arc;
use std::time::Instant;

use llmasos_kernels::Step;
use llmasos_kernels::block::{self, Block};
use llmasos_kernels::norm::{Activation, Norm, NormKind};
use llmasos_kernels::pool::{KvScales, Pool};
use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorInput, OperatorOutput,
};
use ort::value::TensorElementType::{Float32, Int32, Uint8};

use super::inputs::{
    no_hidden_inputs, norm, norm_kind, number, optional, packed, size, tensor, word,
};
use super::{SessionThreads, Shared, failed};

/// See the module.
pub(super) struct DecoderBlock(pub(super) Arc<Shared>);

/// Numbers of the inputs.
mod input {
    pub(super) const X: usize = 0;
    pub(super) const POSITIONS: usize = 1;
    pub(super) const SEQUENCES: usize = 2;
    pub(super) const PAGES: usize = 3;
    pub(super) const ANGLES: usize = 4;
    pub(super) const INPUT_NORM: usize = 5;
    pub(super) const INPUT_NORM_BIAS: usize = 6;
    pub(super) const QKV: usize = 7;
    pub(super) const QKV_BIAS: usize = 8;
    pub(super) const Q_NORM: usize = 9;
    pub(super) const K_NORM: usize = 10;
    pub(super) const OUTPUT: usize = 11;
    pub(super) const OUTPUT_BIAS: usize = 12;
    pub(super) const POST_ATTENTION_NORM: usize = 13;
    pub(super) const FFN_NORM: usize = 14;
    pub(super) const FFN_NORM_BIAS: usize = 15;
    pub(super) const UP: usize = 16;
    pub(super) const UP_BIAS: usize = 17;
    pub(super) const DOWN: usize = 18;
    pub(super) const DOWN_BIAS: usize = 19;
    pub(super) const POST_FFN_NORM: usize = 20;
    pub(super) const KV_SCALES: usize = 21;
}

impl Operator for DecoderBlock {
    type Kernel<'a> = BlockKernel<'a>;

    fn name(&self) -> &str {
        "DecoderBlock"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let required = OperatorInput::required;
        let optional = OperatorInput::optional;
        [
            required(Float32),
            required(Int32),
            required(Int32),
            required(Int32),
            optional(Float32),
            required(Float32),
            optional(Float32),
            required(Uint8),
            optional(Float32),
            optional(Float32),
            optional(Float32),
            required(Uint8),
            optional(Float32),
            optional(Float32),
            required(Float32),
            optional(Float32),
            required(Uint8),
            optional(Float32),
            required(Uint8),
            optional(Float32),
            optional(Float32),
            optional(Float32),
        ]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> ort::Result<BlockKernel<'a>> {
        let state = self.0.state();
        let block = read(node, &state.pool)?;
        block.check(&state.pool).map_err(failed)?;
        drop(state);
        Ok(BlockKernel {
            block,
            shared: Arc::clone(&self.0),
            is_checked: false,
        })
    }
}

/// The block as the node describes it.
fn read<'a>(node: &KernelContext<'a>, pool: &Pool) -> ort::Result<Block<'a>> {
    let [layer, heads, kv_heads, head_dim, ffn, window] =
        ["layer", "heads", "kv_heads", "head_dim", "ffn", "window"].map(|name| size(node, name));
    let (heads, ffn) = (heads?, ffn?);
    let same = |what: &str, expected: usize, found: usize| {
        if expected == found {
            return Ok(found);
        }
        Err(failed(format!(
            "attribute {what}: expected {expected} as the model's settings say, found {found}"
        )))
    };
    let kv_heads = same("kv_heads", pool.kv_heads(), kv_heads?)?;
    let head_dim = same("head_dim", pool.head_dim(), head_dim?)?;
    let gated = size(node, "gated")? == 1;
    let (kind, epsilon) = (norm_kind(node)?, number(node, "epsilon")?);
    let input_norm = norm(
        node,
        (input::INPUT_NORM, input::INPUT_NORM_BIAS),
        "input_norm",
        kind,
        epsilon,
    )?;
    let hidden = input_norm.weight.len();
    let extra = |index| {
        optional(node, index).map(|weight| Norm {
            kind: NormKind::Rms,
            epsilon,
            weight,
            bias: None,
        })
    };
    let qkv_rows = (heads + 2 * kv_heads) * head_dim;
    let up_rows = if gated { 2 * ffn } else { ffn };
    // `[2, kv_heads · head_dim]`; the block checks both lengths.
    let kv_scales = optional(node, input::KV_SCALES).map(|both| {
        let (keys, values) = both.split_at(both.len() / 2);
        KvScales { keys, values }
    });
    Ok(Block {
        layer: layer?,
        heads,
        window: window?,
        scale: number(node, "scale")?,
        input_norm,
        qkv: packed(node, input::QKV, "qkv", (qkv_rows, hidden))?,
        qkv_bias: optional(node, input::QKV_BIAS),
        q_norm: extra(input::Q_NORM),
        k_norm: extra(input::K_NORM),
        kv_scales,
        output: packed(node, input::OUTPUT, "output", (hidden, heads * head_dim))?,
        output_bias: optional(node, input::OUTPUT_BIAS),
        post_attention_norm: extra(input::POST_ATTENTION_NORM),
        ffn_norm: norm(
            node,
            (input::FFN_NORM, input::FFN_NORM_BIAS),
            "ffn_norm",
            kind,
            epsilon,
        )?,
        up: packed(node, input::UP, "up", (up_rows, hidden))?,
        up_bias: optional(node, input::UP_BIAS),
        gated,
        activation: word(
            node,
            "activation",
            &[
                ("silu", Activation::Silu),
                ("gelu_tanh", Activation::GeluTanh),
            ],
        )?,
        down: packed(node, input::DOWN, "down", (hidden, ffn))?,
        down_bias: optional(node, input::DOWN_BIAS),
        post_ffn_norm: extra(input::POST_FFN_NORM),
    })
}

/// A node's weights, and what it shares with the others.
pub(super) struct BlockKernel<'a> {
    block: Block<'a>,
    shared: Arc<Shared>,
    /// Whether the first run has found no input that would be ignored.
    is_checked: bool,
}

impl Kernel for BlockKernel<'_> {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        if !self.is_checked {
            no_hidden_inputs(context, &self.taken())?;
            self.is_checked = true;
        }
        let x = context.input(input::X)?;
        let (positions, sequences) = (
            context.input(input::POSITIONS)?,
            context.input(input::SEQUENCES)?,
        );
        let (pages, angles) = (context.input(input::PAGES)?, context.input(input::ANGLES)?);
        let (shape, x) = tensor::<f32>(&x, "x")?;
        let (pages_shape, pages) = tensor::<i32>(&pages, "pages")?;
        let step = Step {
            positions: tensor::<i32>(&positions, "positions")?.1,
            sequences: tensor::<i32>(&sequences, "sequences")?.1,
            pages,
            table: pages_shape.last().map_or(0, |size| *size as usize),
        };
        let angles = match &angles {
            Some(_) => Some(tensor::<f32>(&angles, "angles")?.1),
            None => None,
        };
        let mut y = context
            .output(0, shape.to_vec())?
            .ok_or_else(|| failed("output y is missing"))?;
        let (_, y) = y.try_extract_tensor_mut::<f32>()?;
        let state = &mut *self.shared.state();
        let rows = step.positions.len();
        let together = self.shared.threads > 1 && state.pace.together(rows);
        let threads = SessionThreads {
            context,
            count: if together { self.shared.threads } else { 1 },
        };
        let begun = Instant::now();
        block::run(
            &self.block,
            &step,
            angles,
            &state.pool,
            (x, y),
            &mut state.workspace,
            &threads,
        )
        .map_err(failed)?;
        state.pace.record(rows, together, begun.elapsed());
        Ok(())
    }
}

impl BlockKernel<'_> {
    /// Optional inputs, and whether they were found to be constants.
    fn taken(&self) -> [(usize, bool); 11] {
        let block = &self.block;
        [
            (input::INPUT_NORM_BIAS, block.input_norm.bias.is_some()),
            (input::QKV_BIAS, block.qkv_bias.is_some()),
            (input::Q_NORM, block.q_norm.is_some()),
            (input::K_NORM, block.k_norm.is_some()),
            (input::OUTPUT_BIAS, block.output_bias.is_some()),
            (
                input::POST_ATTENTION_NORM,
                block.post_attention_norm.is_some(),
            ),
            (input::FFN_NORM_BIAS, block.ffn_norm.bias.is_some()),
            (input::UP_BIAS, block.up_bias.is_some()),
            (input::DOWN_BIAS, block.down_bias.is_some()),
            (input::POST_FFN_NORM, block.post_ffn_norm.is_some()),
            (input::KV_SCALES, block.kv_scales.is_some()),
        ]
    }
}
