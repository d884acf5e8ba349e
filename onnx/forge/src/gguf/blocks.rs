//! Block formats of ggml: how many elements and bytes a block has, and what it means in f32.
//!
//! A block is a run of elements along a row with scales of its own. The arithmetic is in f32 and in the order of ggml's
//! `ggml-quants.c`, so that every reader of a file sees the same weights, bit for bit.
//!
//! ```text
//!   Q4_0  d f16 · 16 × (low nibble = element j, high = element j+16)                      w = d·(q−8)
//!   Q4_1  d f16 · m f16 · 16 bytes as above                                               w = d·q + m
//!   Q5_0  d f16 · fifth bits u32 · 16 bytes as above                                      w = d·(q−16)
//!   Q8_0  d f16 · 32 × i8                                                                 w = d·q
//!   Q4_K, Q5_K  256 elements in 8 groups with 6-bit scales and minima                     w = d·sc·q − dmin·m
//!   Q6_K  256 elements in 16 groups with 8-bit scales                                     w = d·sc·(q−32)
//! ```

use half::{bf16, f16};

/// Storage of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit bfloats.
    Bf16,
    /// 4 bits, symmetric, blocks of 32.
    Q4_0,
    /// 4 bits with a minimum, blocks of 32.
    Q4_1,
    /// 5 bits, symmetric, blocks of 32.
    Q5_0,
    /// 8 bits, symmetric, blocks of 32.
    Q8_0,
    /// 4 bits with minima, super-blocks of 256.
    Q4K,
    /// 5 bits with minima, super-blocks of 256.
    Q5K,
    /// 6 bits, super-blocks of 256.
    Q6K,
}

/// Elements of a K super-block.
const SUPER: usize = 256;

impl BlockFormat {
    /// The format with ggml's type number.
    pub fn from_number(number: u32) -> Option<BlockFormat> {
        Some(match number {
            0 => BlockFormat::F32,
            1 => BlockFormat::F16,
            2 => BlockFormat::Q4_0,
            3 => BlockFormat::Q4_1,
            6 => BlockFormat::Q5_0,
            8 => BlockFormat::Q8_0,
            12 => BlockFormat::Q4K,
            13 => BlockFormat::Q5K,
            14 => BlockFormat::Q6K,
            30 => BlockFormat::Bf16,
            _ => return None,
        })
    }

    /// Elements of one block.
    pub fn block_elements(self) -> u64 {
        match self {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => 1,
            BlockFormat::Q4_0 | BlockFormat::Q4_1 | BlockFormat::Q5_0 | BlockFormat::Q8_0 => 32,
            BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => SUPER as u64,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> u64 {
        match self {
            BlockFormat::F32 => 4,
            BlockFormat::F16 | BlockFormat::Bf16 => 2,
            BlockFormat::Q4_0 => 18,
            BlockFormat::Q4_1 => 20,
            BlockFormat::Q5_0 => 22,
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q4K => 144,
            BlockFormat::Q5K => 176,
            BlockFormat::Q6K => 210,
        }
    }

    /// All whole blocks of `bytes` as f32.
    pub fn dequantize(self, bytes: &[u8]) -> Vec<f32> {
        let blocks = bytes.len() / self.block_bytes() as usize;
        let mut out = Vec::with_capacity(blocks * self.block_elements() as usize);
        for block in bytes.chunks_exact(self.block_bytes() as usize) {
            match self {
                BlockFormat::F32 => {
                    out.push(f32::from_le_bytes([block[0], block[1], block[2], block[3]]))
                }
                BlockFormat::F16 => out.push(half_at(block, 0)),
                BlockFormat::Bf16 => out.push(bf16::from_le_bytes([block[0], block[1]]).to_f32()),
                BlockFormat::Q4_0 => q4_0(block, &mut out),
                BlockFormat::Q4_1 => q4_1(block, &mut out),
                BlockFormat::Q5_0 => q5_0(block, &mut out),
                BlockFormat::Q8_0 => q8_0(block, &mut out),
                BlockFormat::Q4K => q4_k(block, &mut out),
                BlockFormat::Q5K => q5_k(block, &mut out),
                BlockFormat::Q6K => q6_k(block, &mut out),
            }
        }
        out
    }
}

/// The f16 at byte `offset`, widened.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Low nibbles, then high nibbles.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes
        .iter()
        .map(|byte| byte & 15)
        .chain(bytes.iter().map(|byte| byte >> 4))
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(nibbles(&block[2..18]).map(|q| d * (f32::from(q) - 8.0)));
}

fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend(nibbles(&block[4..20]).map(|q| d * f32::from(q) + m));
}

fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    let fifth = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    let codes = nibbles(&block[6..22])
        .enumerate()
        .map(|(j, q)| u32::from(q) | ((fifth >> j) & 1) << 4);
    out.extend(codes.map(|q| d * (q as f32 - 16.0)));
}

fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(block[2..34].iter().map(|&q| f32::from(q as i8) * d));
}

/// Scale and minimum of group `j` (0..8) out of the 12 packed bytes: 6 bits each; the upper two bits of groups 4 to 7 hide in
/// the top of the bytes of groups 0 to 3.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (
            (packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4),
            (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4),
        )
    };
    (f32::from(scale), f32::from(min))
}

fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, codes) = (&block[4..16], &block[16..144]);
    for j in 0..8 {
        let (scale, min) = scale_min(packed, j);
        let (scale, min) = (d * scale, dmin * min);
        let (bytes, shift) = (&codes[j / 2 * 32..j / 2 * 32 + 32], j % 2 * 4);
        out.extend(
            bytes
                .iter()
                .map(|byte| scale * f32::from(byte >> shift & 15) - min),
        );
    }
}

fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (packed, fifth, codes) = (&block[4..16], &block[16..48], &block[48..176]);
    for j in 0..8 {
        let (scale, min) = scale_min(packed, j);
        let (scale, min) = (d * scale, dmin * min);
        let (bytes, shift) = (&codes[j / 2 * 32..j / 2 * 32 + 32], j % 2 * 4);
        let codes = bytes
            .iter()
            .zip(fifth)
            .map(|(byte, high)| byte >> shift & 15 | (high >> j & 1) << 4);
        out.extend(codes.map(|q| scale * f32::from(q) - min));
    }
}

fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[0..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for element in 0..SUPER {
        // Two halves of 128 elements; in each, 4 runs of 32 that share 64 low bytes and 32 high bytes.
        let (half, run, lane) = (element / 128, element % 128 / 32, element % 32);
        let nibble = low[half * 64 + run % 2 * 32 + lane] >> (run / 2 * 4) & 15;
        let top = high[half * 32 + lane] >> (run * 2) & 3;
        let q = i16::from(nibble | top << 4) - 32;
        let scale = d * f32::from(scales[element / 16] as i8);
        out.push(scale * f32::from(q));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.0 and −0.5 as f16 bytes.
    const ONE: [u8; 2] = [0x00, 0x3c];
    const MINUS_HALF: [u8; 2] = [0x00, 0xb8];

    fn bytes(parts: &[&[u8]]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn four_and_five_bit_blocks_by_hand() {
        let mut codes = [0_u8; 16];
        codes[0] = 0xf1; // element 0 is 1, element 16 is 15
        let q4_0 = BlockFormat::Q4_0.dequantize(&bytes(&[&ONE, &codes]));
        assert_eq!(
            (q4_0[0], q4_0[16], q4_0[1], q4_0.len()),
            (-7.0, 7.0, -8.0, 32)
        );
        let q4_1 = BlockFormat::Q4_1.dequantize(&bytes(&[&ONE, &MINUS_HALF, &codes]));
        assert_eq!((q4_1[0], q4_1[16], q4_1[1]), (0.5, 14.5, -0.5));
        let q5_0 = BlockFormat::Q5_0.dequantize(&bytes(&[&ONE, &[1, 0, 0, 0], &codes]));
        assert_eq!(
            (q5_0[0], q5_0[16], q5_0[1]),
            (1.0, -1.0, -16.0),
            "bit 0 of the fifth bits belongs to element 0"
        );
    }

    #[test]
    fn eight_bits_and_floats_by_hand() {
        let mut q = [0_u8; 32];
        q[0] = 0x80;
        q[31] = 127;
        let out = BlockFormat::Q8_0.dequantize(&bytes(&[&MINUS_HALF, &q]));
        assert_eq!((out[0], out[31]), (64.0, -63.5));
        assert_eq!(BlockFormat::F32.dequantize(&1.5_f32.to_le_bytes()), [1.5]);
        assert_eq!(BlockFormat::F16.dequantize(&MINUS_HALF), [-0.5]);
        assert_eq!(BlockFormat::Bf16.dequantize(&[0x80, 0x3f]), [1.0]);
    }

    #[test]
    fn super_block_scales_use_their_hidden_bits() {
        let mut packed = [0_u8; 12];
        packed[0] = 0b1100_0001; // group 0: scale 1; upper bits of group 4's scale
        packed[4] = 0b0100_0010; // group 0: minimum 2; upper bits of group 4's minimum
        packed[8] = 0b0011_0101; // group 4: lower bits 5 and 3
        assert_eq!(scale_min(&packed, 0), (1.0, 2.0));
        assert_eq!(
            scale_min(&packed, 4),
            (f32::from(0b110101_u8), f32::from(0b010011_u8))
        );
        let block = bytes(&[&ONE, &ONE, &packed, &[0x21; 128]]);
        let out = BlockFormat::Q4K.dequantize(&block);
        assert_eq!((out[0], out.len()), (1.0 * 1.0 - 2.0, 256));
        assert_eq!(out[32], 0.0, "group 1 has scale 0");
    }
}
