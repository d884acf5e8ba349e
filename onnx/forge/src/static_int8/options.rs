//! What can be chosen about 8-bit quantization, as it stands in a recipe.
//!
//! ```yaml
//! static_int8: { ranges: { percentile: 99.99 }, max_error: 0.03, keep_float: [BoxPredictor_0/ClassPredictor] }
//! ```

use serde::{Deserialize, Serialize};

use super::StaticError;

/// Most samples that are run again and again while errors are measured.
pub const MAX_ERROR_SAMPLES: usize = 256;
/// Least percentile: below it, what is cut off is no outlier any more.
pub const MIN_PERCENT: f64 = 90.0;
/// The percentile unless somebody says otherwise.
pub const DEFAULT_PERCENT: f64 = 99.99;

/// How the range of an activation is chosen from its histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeMethod {
    /// Least and greatest value seen: nothing is cut off.
    MinMax,
    /// The range that holds this part of all values, in percent: 99.99 cuts off one in ten thousand.
    Percentile(f64),
    /// The range whose 8-bit histogram loses the least information (Kullback-Leibler divergence): S. Migacz, "8-bit Inference with
    /// TensorRT", GTC 2017.
    Entropy,
}

impl Default for RangeMethod {
    /// One value in ten thousand is cut off: a single large one would make all steps coarse. The detector of the catalogue agreed with its
    /// original by 0.75 so, by 0.65 without; MiniLM by 0.993 either way.
    fn default() -> RangeMethod {
        RangeMethod::Percentile(DEFAULT_PERCENT)
    }
}

/// What happens when a graph has operators that the pass does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnknown {
    /// They stay as they are and are named in the report.
    #[default]
    Keep,
    /// The first one is an error.
    Refuse,
}

/// How a product with a constant matrix is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum ProductForm {
    /// QuantizeLinear, then ONNX Runtime's `MatMulIntegerToFloat` with the bias in it: one operator, whatever an optimizer does.
    #[default]
    IntegerToFloat,
    /// Only standard operators: QuantizeLinear, DequantizeLinear, MatMul. For other runtimes and providers.
    Qdq,
}

/// What is quantized, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaticOptions {
    /// How ranges of activations are chosen.
    pub ranges: RangeMethod,
    /// Whether no two codes of a channel are so large that the sum of two products leaves 16 bits. Computers with AVX2 and no VNNI cut
    /// such sums off, so that a model without it is another one there. It costs at most one bit of a weight. Depthwise
    /// convolutions add in 32 bits and are left out.
    pub pairs_fit: bool,
    /// How products with constant matrices are written.
    pub products: ProductForm,
    /// Whether tables that are looked up by row become 8-bit too.
    pub lookups: bool,
    /// Names of nodes that stay in float.
    pub keep_float: Vec<String>,
    /// Largest relative error of an output, ‖found − expected‖ / ‖expected‖ over the first samples. Nodes are left in float, the most
    /// sensitive first, until it is met. Not given: whatever comes out.
    pub max_error: Option<f32>,
    /// How many samples errors are measured with.
    pub error_samples: usize,
    /// What to do about operators that the pass does not know.
    pub on_unknown: OnUnknown,
}

impl Default for StaticOptions {
    fn default() -> StaticOptions {
        StaticOptions {
            ranges: RangeMethod::default(),
            pairs_fit: true,
            products: ProductForm::default(),
            lookups: false,
            keep_float: Vec::new(),
            max_error: None,
            error_samples: 8,
            on_unknown: OnUnknown::default(),
        }
    }
}

impl StaticOptions {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`StaticError::Option`] names the first that is out of its range.
    pub fn check(&self) -> Result<(), StaticError> {
        let wrong = |option, expected: String, found: String| StaticError::Option {
            option,
            expected,
            found,
        };
        if let RangeMethod::Percentile(percent) = self.ranges
            && !(MIN_PERCENT..=100.0).contains(&percent)
        {
            let expected = format!("{MIN_PERCENT} to 100");
            return Err(wrong("ranges.percentile", expected, percent.to_string()));
        }
        if !(1..=MAX_ERROR_SAMPLES).contains(&self.error_samples) {
            let expected = format!("1 to {MAX_ERROR_SAMPLES}");
            return Err(wrong(
                "error_samples",
                expected,
                self.error_samples.to_string(),
            ));
        }
        match self.max_error {
            // Written so that NaN fails.
            Some(error) if !(error > 0.0 && error.is_finite()) => Err(wrong(
                "max_error",
                "a number above 0".into(),
                error.to_string(),
            )),
            _ => Ok(()),
        }
    }
}
