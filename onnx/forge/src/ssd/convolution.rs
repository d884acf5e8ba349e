//! A convolution on its way from TensorFlow to ONNX: read with explicit padding, held back while what follows it is folded into
//! scale and bias, then written with its weights in ONNX's order.

use super::convert::{Planes, unsupported};
use crate::error::ForgeError;
use crate::graph::{GraphBuilder, Node, TensorSpec, float_bytes};
use crate::proto::onnx::DataType;
use crate::proto::tensorflow::NodeDef;
use crate::tensorflow::Constant;

/// Largest stride, dilation or kernel; the published ones are 1 to 3.
const MAX_KERNEL: usize = 64;

/// A convolution with what has been folded into it: out = conv(input, weights)·scale + bias.
#[derive(Debug, Clone)]
pub(super) struct Convolution<'a> {
    input: String,
    weights: Constant<'a>,
    is_depthwise: bool,
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
    strides: [usize; 2],
    dilations: [usize; 2],
    /// Top, left, bottom, right.
    pads: [usize; 4],
    /// Output channels, height, width.
    shape: [usize; 3],
}

impl<'a> Convolution<'a> {
    /// Reads Conv2D, or DepthwiseConv2dNative, its form with filters per channel.
    ///
    /// # Errors
    /// [`ForgeError::Ssd`] if layout, padding or the weights' shape are not supported.
    pub(super) fn read(
        node: &NodeDef,
        input: Planes,
        weights: Constant<'a>,
    ) -> Result<Convolution<'a>, ForgeError> {
        let is_depthwise = node.op == "DepthwiseConv2dNative";
        let [channels, height, width] = input.shape;
        // [height, width, channels in, channels out, or filters per channel if depthwise]
        let [kernel_height, kernel_width, channels_in, filters] = weights.dims[..] else {
            return Err(unsupported(
                node,
                format!("weights of shape {:?}, expected four sizes", weights.dims),
            )
            .into());
        };
        let sizes = [kernel_height, kernel_width];
        if channels_in != channels
            || filters == 0
            || sizes.iter().any(|size| !(1..=MAX_KERNEL).contains(size))
        {
            return Err(unsupported(
                node,
                format!("weights of shape {:?} on {channels} channels", weights.dims),
            )
            .into());
        }
        if node.text("data_format").unwrap_or("NHWC") != "NHWC" {
            return Err(unsupported(node, "data format is not NHWC").into());
        }
        let strides = spatial(node, "strides")?;
        let dilations = spatial(node, "dilations")?;
        let padding = node.text("padding")?;
        let ([top, bottom], out_height) = pad(
            node,
            padding,
            height,
            kernel_height,
            strides[0],
            dilations[0],
        )?;
        let ([left, right], out_width) =
            pad(node, padding, width, kernel_width, strides[1], dilations[1])?;
        let out_channels = if is_depthwise {
            channels * filters
        } else {
            filters
        };
        Ok(Convolution {
            input: input.value,
            weights,
            is_depthwise,
            scale: vec![1.0; out_channels],
            bias: vec![0.0; out_channels],
            strides,
            dilations,
            pads: [top, left, bottom, right],
            shape: [out_channels, out_height, out_width],
        })
    }

    /// Writes the convolution with everything that was folded into it.
    pub(super) fn emit(self, name: &str, graph: &mut GraphBuilder<'a>) -> Planes {
        let Convolution {
            input,
            weights,
            is_depthwise,
            scale,
            bias,
            strides,
            dilations,
            pads,
            shape,
        } = self;
        let [height, width, channels, filters] = [0, 1, 2, 3].map(|axis: usize| weights.dims[axis]);
        let dims = if is_depthwise {
            [channels * filters, 1, height, width]
        } else {
            [filters, channels, height, width]
        };
        let (weights_name, bias_name) = (format!("{name}.weights"), format!("{name}.bias"));
        let spec = TensorSpec::new(
            &weights_name,
            DataType::Float,
            &dims.map(|size| size as i64),
        );
        graph.payload(vec![spec], move || {
            Ok(vec![float_bytes(&filters_first(
                &weights,
                is_depthwise,
                &scale,
            )?)])
        });
        graph.floats(&bias_name, &[bias.len() as i64], &bias);
        let signed = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect::<Vec<_>>();
        let node = Node::new("Conv", &[&input, &weights_name, &bias_name], &[name])
            .int("group", if is_depthwise { channels as i64 } else { 1 });
        let node = node
            .ints("kernel_shape", &signed(&[height, width]))
            .ints("strides", &signed(&strides));
        graph.node(
            node.ints("dilations", &signed(&dilations))
                .ints("pads", &signed(&pads)),
        );
        Planes {
            value: name.to_string(),
            shape,
        }
    }
}

/// [height, width, in, out] → [out, in, height, width], or [height, width, channels, filters] → [channels·filters, 1, height,
/// width] if depthwise; each output channel times its scale.
pub(super) fn filters_first(
    weights: &Constant<'_>,
    is_depthwise: bool,
    scale: &[f32],
) -> Result<Vec<f32>, ForgeError> {
    let values = weights.floats()?;
    let [height, width, channels, filters] = [0, 1, 2, 3].map(|axis: usize| weights.dims[axis]);
    let at = |pixel: usize, channel: usize, filter: usize| {
        values[(pixel * channels + channel) * filters + filter]
    };
    let pixels = height * width;
    let mut out = Vec::with_capacity(values.len());
    if is_depthwise {
        for (channel, filter) in
            (0..channels).flat_map(|channel| (0..filters).map(move |filter| (channel, filter)))
        {
            out.extend(
                (0..pixels)
                    .map(|pixel| at(pixel, channel, filter) * scale[channel * filters + filter]),
            );
        }
    } else {
        for (filter, channel) in
            (0..filters).flat_map(|filter| (0..channels).map(move |channel| (filter, channel)))
        {
            out.extend((0..pixels).map(|pixel| at(pixel, channel, filter) * scale[filter]));
        }
    }
    Ok(out)
}

/// Height and width of an attribute [1, height, width, 1]; 1 and 1 if absent.
fn spatial(node: &NodeDef, attribute: &'static str) -> Result<[usize; 2], ForgeError> {
    let sizes: Option<[usize; 2]> = match *node.list(attribute)? {
        [] => Some([1, 1]),
        [1, height, width, 1] => usize::try_from(height)
            .ok()
            .zip(usize::try_from(width).ok())
            .map(<[usize; 2]>::from),
        _ => None,
    };
    match sizes.filter(|sizes| sizes.iter().all(|size| (1..=MAX_KERNEL).contains(size))) {
        Some(sizes) => Ok(sizes),
        None => Err(unsupported(node, format!("{attribute} {:?}", node.list(attribute)?)).into()),
    }
}

/// Zeros before and after, and the output's size, along one axis. SAME puts the odd zero behind, which ONNX's own automatic
/// padding also can, but only explicit numbers are the same in every runtime.
pub(super) fn pad(
    node: &NodeDef,
    padding: &str,
    size: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
) -> Result<([usize; 2], usize), ForgeError> {
    let reach = (kernel - 1) * dilation + 1;
    match padding {
        "SAME" => {
            let out = size.div_ceil(stride);
            let zeros = ((out.max(1) - 1) * stride + reach).saturating_sub(size);
            Ok(([zeros / 2, zeros - zeros / 2], out))
        }
        "VALID" if reach <= size => Ok(([0, 0], (size - reach) / stride + 1)),
        _ => Err(unsupported(
            node,
            format!("padding {padding} of {size} with a reach of {reach}"),
        )
        .into()),
    }
}
