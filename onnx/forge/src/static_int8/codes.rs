//! Numbers as 8-bit codes: weights per channel without a zero point, activations per tensor with one.
//!
//! ```text
//!   weight      w ≈ s_c · q      q in −127…127                           s_c = max |w| of channel c / 127
//!               |q| + |q'| ≤ 128 for any two of a channel, if pairs have to fit: (max + next) / 128, if that is more
//!   activation  x ≈ s · (q − z)  q in 0…255                              s = (high − low) / 255, z = −low / s
//!   bias        b ≈ s · s_c · q  q in 32 bits
//! ```

use super::StaticError;

/// Largest code of a bias: a quarter of what fits, so that the sum of products has room.
const MAX_BIAS: f64 = (1_u32 << 29) as f64;

/// Greatest code of a weight; the least is its negative.
const MAX_CODE: f32 = 127.0;

/// Step and zero of an activation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Affine {
    pub(crate) scale: f32,
    pub(crate) zero_point: u8,
}

impl Affine {
    /// For a range with zero in it. Zero itself is exact: padding and ReLU make a lot of it.
    pub(crate) fn new([low, high]: [f32; 2]) -> Affine {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let width = f64::from(high) - f64::from(low);
        let exact = width / 255.0;
        let mut scale = exact as f32;
        // Rounded towards zero: 255 steps must not reach beyond the bound of a Clip, or the runtime keeps the Clip.
        if f64::from(scale) > exact {
            scale = scale.next_down();
        }
        if !scale.is_normal() {
            // Nothing but zeros was seen.
            return Affine {
                scale: 1.0,
                zero_point: 0,
            };
        }
        let zero_point = (-f64::from(low) / exact).round() as u8;
        Affine { scale, zero_point }
    }
}

/// A weight in codes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Channels {
    /// As many as weights, in their order.
    pub(crate) codes: Vec<i8>,
    /// One per channel.
    pub(crate) scales: Vec<f32>,
    /// Signal to noise, dB; `None` if there is no noise.
    pub(crate) signal_to_noise_db: Option<f64>,
}

/// Codes of `weights`, whose element `i` belongs to channel `channel(i)`, below `channels`. `least` holds scales that must not be
/// undercut, or nothing.
///
/// # Errors
/// [`StaticError::NotFinite`] names the tensor.
pub(crate) fn per_channel(
    tensor: &str,
    weights: &[f32],
    channels: usize,
    channel: impl Fn(usize) -> usize,
    least: &[f32],
) -> Result<Channels, StaticError> {
    let mut scales = vec![0.0_f32; channels];
    for (at, &weight) in weights.iter().enumerate() {
        if !weight.is_finite() {
            return Err(StaticError::NotFinite {
                what: "tensor",
                name: tensor.to_string(),
                found: weight,
                at,
            });
        }
        let scale = &mut scales[channel(at)];
        *scale = scale.max(weight.abs());
    }
    for (at, scale) in scales.iter_mut().enumerate() {
        *scale = (*scale / MAX_CODE).max(least.get(at).copied().unwrap_or(0.0));
        if !scale.is_normal() {
            *scale = 1.0; // a channel of zeros
        }
    }
    let (mut signal, mut noise) = (0.0_f64, 0.0_f64);
    let code = |(at, &weight): (usize, &f32)| {
        let scale = scales[channel(at)];
        let code = (weight / scale)
            .round_ties_even()
            .clamp(-MAX_CODE, MAX_CODE);
        signal += f64::from(weight).powi(2);
        noise += (f64::from(weight) - f64::from(code) * f64::from(scale)).powi(2);
        code as i8
    };
    let codes = weights.iter().enumerate().map(code).collect();
    let signal_to_noise_db = (signal > 0.0 && noise > 0.0).then(|| 10.0 * (signal / noise).log10());
    Ok(Channels {
        codes,
        scales,
        signal_to_noise_db,
    })
}

/// Largest sum of two codes of a channel with which two products with activations never leave 16 bits: 255 · 128 < 2¹⁵.
const MAX_PAIR: f32 = 128.0;

/// Least scales with which any two codes of a channel add up to [`MAX_PAIR`] at most.
///
/// Computers with AVX2 and no VNNI multiply bytes in pairs, u8 · i8 + u8 · i8, and cut the sum off at 16 bits (vpmaddubsw). Which
/// weights meet there depends on how a kernel lays them out, so every two of a channel have to fit. Where one weight is far larger
/// than all others that costs almost nothing; at most it costs one bit.
pub(crate) fn pair_scales(
    weights: &[f32],
    channels: usize,
    channel: impl Fn(usize) -> usize,
) -> Vec<f32> {
    let mut largest = vec![[0.0_f32; 2]; channels];
    for (at, weight) in weights.iter().enumerate() {
        let [first, second] = &mut largest[channel(at)];
        let size = weight.abs();
        if size > *first {
            *second = std::mem::replace(first, size);
        } else if size > *second {
            *second = size;
        }
    }
    let scale = |[first, second]: &[f32; 2]| {
        // A little more, so that rounding the quotients does not undo it.
        (first + second) / MAX_PAIR * (1.0 + 4.0 * f32::EPSILON)
    };
    largest.iter().map(scale).collect()
}

/// Least scales of weights with which a bias still fits into its codes.
pub(crate) fn least_scales(bias: &[f32], input_scale: f32) -> Vec<f32> {
    bias.iter()
        .map(|bias| (f64::from(bias.abs()) / (f64::from(input_scale) * MAX_BIAS)) as f32)
        .collect()
}

/// Codes and scales of a bias.
///
/// # Errors
/// [`StaticError::NotFinite`] names the tensor.
pub(crate) fn bias(
    tensor: &str,
    bias: &[f32],
    input_scale: f32,
    weight_scales: &[f32],
) -> Result<(Vec<i32>, Vec<f32>), StaticError> {
    let mut codes = Vec::with_capacity(bias.len());
    let mut scales = Vec::with_capacity(bias.len());
    for (at, (&bias, &weight_scale)) in bias.iter().zip(weight_scales).enumerate() {
        if !bias.is_finite() {
            return Err(StaticError::NotFinite {
                what: "tensor",
                name: tensor.to_string(),
                found: bias,
                at,
            });
        }
        let scale = (input_scale * weight_scale).max(f32::MIN_POSITIVE);
        scales.push(scale);
        // `as` saturates.
        codes.push((f64::from(bias) / f64::from(scale)).round_ties_even() as i32);
    }
    Ok((codes, scales))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn activations() {
        // Range, scale, zero point, why.
        let cases: [([f32; 2], f32, u8, &str); 6] = [
            ([0.0, 6.0], 6.0 / 255.0, 0, "what ReLU6 makes"),
            ([-1.0, 1.0], 2.0 / 255.0, 128, "127.5 rounds up"),
            ([-2.0, 0.0], 2.0 / 255.0, 255, "never positive"),
            ([1.0, 3.0], 3.0 / 255.0, 0, "zero is put into the range"),
            ([0.0, 0.0], 1.0, 0, "nothing but zeros"),
            ([-1e-45, 1e-45], 1.0, 0, "steps too small for a number"),
        ];
        for (range, scale, zero_point, why) in cases {
            let found = Affine::new(range);
            assert!((found.scale - scale).abs() < 1e-8, "{why}: {found:?}");
            assert_eq!(found.zero_point, zero_point, "{why}");
        }
    }

    #[test]
    fn a_channel_has_a_scale_of_its_own() {
        let weights = [1.27, 0.01, -0.635, 127.0, -1.0, 0.4];
        let found = per_channel("w", &weights, 2, |at| at / 3, &[]).unwrap();
        assert_eq!(
            found.codes,
            [127, 1, -64, 127, -1, 0],
            "−63.5 goes to the even side"
        );
        assert!((found.scales[0] - 0.01).abs() < 1e-8 && found.scales[1] == 1.0);
        let zeros = per_channel("w", &[0.0; 3], 3, |at| at, &[]).unwrap();
        assert_eq!(
            (zeros.scales, zeros.signal_to_noise_db),
            (vec![1.0; 3], None)
        );
        let error = per_channel("conv.w", &[0.0, f32::NAN], 1, |_| 0, &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("tensor conv.w holds NaN at element 1"),
            "{error}"
        );
    }

    #[test]
    fn a_bias_that_would_overflow_widens_the_weights_step() {
        let least = least_scales(&[1e6], 1e-6);
        let weights = per_channel("w", &[1e-6], 1, |_| 0, &least).unwrap();
        let (codes, scales) = bias("b", &[1e6], 1e-6, &weights.scales).unwrap();
        let back = f64::from(codes[0]) * f64::from(scales[0]);
        assert!((back / 1e6 - 1.0).abs() < 1e-6, "{back}");
    }

    proptest! {
        #[test]
        fn an_activation_is_half_a_step_off_at_most(low in -1e4_f32..0.0, high in 0.0_f32..1e4, part in 0.0_f32..1.0) {
            prop_assume!(high - low > 1e-6);
            let affine = Affine::new([low, high]);
            let value = low + (high - low) * part;
            let code = ((value / affine.scale).round_ties_even() + f32::from(affine.zero_point)).clamp(0.0, 255.0);
            let back = (code - f32::from(affine.zero_point)) * affine.scale;
            // One step at the ends, where the zero point has been rounded.
            prop_assert!((back - value).abs() <= affine.scale * 1.01, "{} {}", back, value);
            prop_assert!(f64::from(affine.scale) * 255.0 <= f64::from(high) - f64::from(low));
        }

        #[test]
        fn a_weight_is_half_a_step_off_at_most(weights in prop::collection::vec(-1e3_f32..1e3, 1..60)) {
            let found = per_channel("w", &weights, 3, |at| at % 3, &[]).unwrap();
            for (at, weight) in weights.iter().enumerate() {
                let scale = found.scales[at % 3];
                prop_assert!((weight - f32::from(found.codes[at]) * scale).abs() <= scale * 0.5001);
            }
        }

        #[test]
        fn no_two_codes_of_a_channel_leave_16_bits(weights in prop::collection::vec(-1e3_f32..1e3, 2..60)) {
            let least = pair_scales(&weights, 2, |at| at % 2);
            let found = per_channel("w", &weights, 2, |at| at % 2, &least).unwrap();
            for channel in 0..2 {
                let codes: Vec<i32> = found.codes.iter().skip(channel).step_by(2).map(|code| i32::from(*code).abs()).collect();
                for (at, one) in codes.iter().enumerate() {
                    let most = codes[at + 1..].iter().max().copied().unwrap_or(0);
                    prop_assert!(255 * (one + most) <= i32::from(i16::MAX), "{} {}", one, most);
                }
                let largest = codes.iter().max().copied().unwrap_or(0);
                prop_assert!(largest >= 63 || codes.iter().all(|code| *code == 0), "no more than a bit is lost: {}", largest);
            }
        }
    }
}
