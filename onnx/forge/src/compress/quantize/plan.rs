//! What a quantization makes, and what it says about it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::RefineOptions;
use crate::decoder::LayerPart;
use crate::quantize::CodeFormat;

/// Fewest tokens to calibrate with: fewer span too few of the directions that inputs take.
pub const MIN_TOKENS: usize = 1024;
/// How codes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Every weight to the nearest point of a grid that spans its block. Looks at no text.
    Rtn,
    /// Grids searched with inputs' sizes.
    Importance,
    /// The same, after scales were folded.
    Awq,
    /// Grids searched, codes with feedback.
    Gptq,
    /// Errors of earlier layers made good, scales folded, grids searched, codes with feedback, then everything refined.
    Best,
}

impl Method {
    pub(super) fn reads_texts(self) -> bool {
        self != Method::Rtn
    }

    pub(super) fn folds(self) -> bool {
        matches!(self, Method::Awq | Method::Best)
    }

    pub(super) fn feeds_back(self) -> bool {
        matches!(self, Method::Gptq | Method::Best)
    }
}

/// What to make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeOptions {
    /// How codes are found.
    pub method: Method,
    /// Format of the layers' matrices.
    pub layers: CodeFormat,
    /// Format of embedding and head, which are rounded to nearest.
    pub head: CodeFormat,
    /// Matrices stored in 8 bits instead; gate and up of a layer together.
    pub raised: BTreeSet<(usize, LayerPart)>,
    /// `accuracy_level` of MatMulNBits: 0, 1 or 4.
    pub accuracy_level: u8,
    /// Damping of Gram matrices, as a share of the middle of their diagonal.
    pub damping: f32,
    /// How much of what the layers before got wrong [`Method::Best`] makes good, 0 ..= 1. On SmolLM2
    /// with 32k tokens the divergence was 0.066 with none of it and 0.061 with 0.6.
    pub correction: f64,
    /// How long [`Method::Best`] refines.
    pub refine: RefineOptions,
}

impl Default for QuantizeOptions {
    fn default() -> QuantizeOptions {
        QuantizeOptions {
            method: Method::Best,
            layers: CodeFormat::Int4,
            head: CodeFormat::Int8,
            raised: BTreeSet::new(),
            accuracy_level: 4,
            damping: 0.01,
            correction: 0.6,
            refine: RefineOptions::default(),
        }
    }
}

impl QuantizeOptions {
    /// Whether matrices answer for the layers before them.
    pub(super) fn corrects(&self) -> bool {
        self.method == Method::Best && self.correction > 0.0
    }

    /// The format of a layer's matrix.
    pub fn format(&self, layer: usize, part: LayerPart) -> CodeFormat {
        let twin = match part {
            LayerPart::Gate => LayerPart::Up,
            LayerPart::Up => LayerPart::Gate,
            LayerPart::Qkv | LayerPart::Output | LayerPart::Down => part,
        };
        match self.raised.contains(&(layer, part)) || self.raised.contains(&(layer, twin)) {
            true => CodeFormat::Int8,
            false => self.layers,
        }
    }
}

/// What it cost one matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixReport {
    /// Layer of the matrix.
    pub layer: usize,
    /// Which of its matrices.
    pub part: LayerPart,
    /// Its format.
    pub format: CodeFormat,
    /// ‖(W − Ŵ)X‖² / ‖WX‖² on the texts.
    pub relative_error: f64,
    /// Exponent of the scales folded into it, if scales were searched and any were better than none.
    pub fold: Option<f32>,
}

/// What it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeReport {
    /// Tokens read.
    pub tokens: usize,
    /// Every matrix, in the order of computation.
    pub matrices: Vec<MatrixReport>,
    /// Layers that were found finished in the work folder.
    pub resumed_layers: usize,
}
