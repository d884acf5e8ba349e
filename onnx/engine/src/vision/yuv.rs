//! YUV rows to RGB: what USB and MIPI cameras deliver before anybody converts it.
//!
//! ITU-R BT.601, limited range (16..235), the convention of V4L2 for these formats, in fixed point with 8 bits of fraction.

/// Order of the bytes of two pixels that share their colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// U, Y0, V, Y1 (`sensor_msgs` calls it `yuv422`).
    Uyvy,
    /// Y0, U, Y1, V (`yuv422_yuy2`).
    Yuyv,
}

/// Order of the two colours in the second plane of 4:2:0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// NV12.
    Uv,
    /// NV21.
    Vu,
}

/// Appends the RGB pixels of one packed 4:2:2 row.
pub(super) fn packed_row(row: &[u8], order: Order, rgb: &mut Vec<u8>) {
    for &[a, b, c, d] in row.as_chunks::<4>().0 {
        let (u, v, pair) = match order {
            Order::Uyvy => (a, c, [b, d]),
            Order::Yuyv => (b, d, [a, c]),
        };
        pair.iter()
            .for_each(|y| rgb.extend_from_slice(&to_rgb(*y, u, v)));
    }
}

/// Appends the RGB pixels of one row of 4:2:0 with its row of the colour plane.
pub(super) fn planar_row(luma: &[u8], colour: &[u8], order: Chroma, rgb: &mut Vec<u8>) {
    for (pair, &[first, second]) in luma.chunks(2).zip(colour.as_chunks::<2>().0) {
        let (u, v) = match order {
            Chroma::Uv => (first, second),
            Chroma::Vu => (second, first),
        };
        pair.iter()
            .for_each(|y| rgb.extend_from_slice(&to_rgb(*y, u, v)));
    }
}

fn to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    // R = 1.164 (Y-16) + 1.596 (V-128), G = .. - 0.391 (U-128) - 0.813 (V-128), B = .. + 2.018 (U-128), times 256.
    let y = 298 * (i32::from(y) - 16) + 128;
    let (u, v) = (i32::from(u) - 128, i32::from(v) - 128);
    [y + 409 * v, y - 100 * u - 208 * v, y + 516 * u]
        .map(|channel| (channel >> 8).clamp(0, 255) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primaries_of_bt_601() {
        // (name, Y, U, V, RGB): the 100 % colour bars of ITU-R BT.601.
        let cases = [
            ("black", 16, 128, 128, [0, 0, 0]),
            ("white", 235, 128, 128, [255, 255, 255]),
            ("red", 81, 90, 240, [255, 0, 0]),
            ("green", 145, 54, 34, [0, 255, 0]),
            ("blue", 41, 240, 110, [0, 0, 255]),
            ("below black", 0, 128, 128, [0, 0, 0]),
        ];
        for (name, y, u, v, expected) in cases {
            let found = to_rgb(y, u, v);
            for (channel, (a, b)) in found.iter().zip(expected).enumerate() {
                assert!(
                    a.abs_diff(b) <= 2,
                    "{name}, channel {channel}: expected {expected:?}, found {found:?}"
                );
            }
        }
    }

    #[test]
    fn byte_orders() {
        let expected = [to_rgb(81, 90, 240), to_rgb(145, 90, 240)].concat();
        let mut rgb = Vec::new();
        packed_row(&[90, 81, 240, 145], Order::Uyvy, &mut rgb);
        packed_row(&[81, 90, 145, 240], Order::Yuyv, &mut rgb);
        planar_row(&[81, 145], &[90, 240], Chroma::Uv, &mut rgb);
        planar_row(&[81, 145], &[240, 90], Chroma::Vu, &mut rgb);
        assert_eq!(rgb, expected.repeat(4));
    }
}
