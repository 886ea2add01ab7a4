//! A minimal JPEG encoder: baseline sequential DCT, three components without subsampling, as ITU-T T.81 defines it.
//!
//! It encodes pictures of few colours, as [`super::canvas`] draws them. A block of one colour costs a lookup and no
//! transform, so a picture that is mostly background is cheap. All three components share one quantization table (T.81
//! table K.1, half of its steps) and one pair of Huffman tables (T.81 tables K.3 and K.5).
//!
//! The order of the file is T.81 annex B: SOI, APP0 (JFIF, which makes the components YCbCr), DQT, SOF0, DHT, SOS, the
//! blocks, EOI.

use std::f32::consts::{FRAC_1_SQRT_2, PI};
use std::sync::LazyLock;

use super::canvas::Canvas;

/// The side of a block, in pixels.
const SIDE: usize = 8;
const BLOCK: usize = SIDE * SIDE;

/// Zigzag order (T.81 figure A.6): the place in a block of each coefficient, in the order in which they are coded.
#[rustfmt::skip]
const ZIGZAG: [usize; BLOCK] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// T.81 table K.1, in rows.
#[rustfmt::skip]
const STEPS_OF_K1: [u8; BLOCK] = [
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
];

/// A Huffman table as DHT has it: how many codes of each length from 1 to 16 bits, and what they stand for.
struct Huffman {
    lengths: [u8; 16],
    values: &'static [u8],
}

/// T.81 table K.3: differences of DC coefficients.
const DC: Huffman = Huffman {
    lengths: [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    values: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
};

/// T.81 table K.5: AC coefficients, each as a run of zeros (upper four bits) and a size (lower four).
#[rustfmt::skip]
const AC: Huffman = Huffman {
    lengths: [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125],
    values: &[
        0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07, 0x22, 0x71,
        0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72,
        0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37,
        0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59,
        0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
        0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3,
        0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
        0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
        0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa,
    ],
};
/// The end of a block: only zeros follow.
const END_OF_BLOCK: u8 = 0x00;
/// Sixteen zeros.
const ZERO_RUN: u8 = 0xf0;

/// Codes by value: the code and its length in bits.
type Codes = [(u32, u32); 256];

static DC_CODES: LazyLock<Codes> = LazyLock::new(|| DC.codes());
static AC_CODES: LazyLock<Codes> = LazyLock::new(|| AC.codes());

impl Huffman {
    /// T.81 annex C: codes of one length count upwards, and each length begins where the shorter one ended.
    fn codes(&self) -> Codes {
        let mut codes = [(0, 0); 256];
        let mut values = self.values.iter();
        let mut code = 0;
        for (length, count) in (1..).zip(self.lengths) {
            for value in values.by_ref().take(count.into()) {
                codes[usize::from(*value)] = (code, length);
                code += 1;
            }
            code <<= 1;
        }
        codes
    }
}

/// `cos((2x + 1) u π / 16)`, with the transform's factor for `u` (T.81 A.3.3), by `u` and `x`.
static WAVES: LazyLock<[[f32; SIDE]; SIDE]> = LazyLock::new(|| {
    let wave = |u: u8, x: u8| {
        let factor = if u == 0 { FRAC_1_SQRT_2 } else { 1.0 } / 2.0;
        factor * (f32::from(2 * x + 1) * f32::from(u) * PI / 16.0).cos()
    };
    [0, 1, 2, 3, 4, 5, 6, 7].map(|u| [0, 1, 2, 3, 4, 5, 6, 7].map(|x| wave(u, x)))
});

/// The quantization step at a place of a block.
const fn step(place: usize) -> u8 {
    STEPS_OF_K1[place].div_ceil(2)
}

/// Encodes a picture.
pub(super) fn encode(canvas: &Canvas) -> Vec<u8> {
    let mut out = head(canvas.width(), canvas.height());
    let colours: Vec<[i16; 3]> = canvas.palette().iter().map(|rgb| ycbcr(*rgb)).collect();
    let mut bits = Bits::default();
    // A component's DC coefficient is coded as the difference from the one before.
    let mut before = [0; 3];
    for top in (0..usize::from(canvas.height())).step_by(SIDE) {
        for left in (0..usize::from(canvas.width())).step_by(SIDE) {
            let block = block(canvas, left, top);
            for (component, before) in before.iter_mut().enumerate() {
                let samples = block.map(|colour| colours[usize::from(colour)][component]);
                let coefficients = transform(&samples);
                bits.block(&coefficients, *before);
                *before = coefficients[0];
            }
        }
    }
    out.append(&mut bits.end());
    out.extend([0xff, 0xd9]);
    out
}

/// Everything before the blocks.
fn head(width: u16, height: u16) -> Vec<u8> {
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    let mut steps = vec![0];
    steps.extend(ZIGZAG.map(step));
    segment(&mut out, 0xdb, &steps);
    let (width, height) = (width.to_be_bytes(), height.to_be_bytes());
    // Eight bits a sample; three components, each with one block a unit and quantization table 0.
    let mut frame = vec![8, height[0], height[1], width[0], width[1], 3];
    frame.extend([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    segment(&mut out, 0xc0, &frame);
    for (class, table) in [(0x00, &DC), (0x10, &AC)] {
        let mut content = vec![class];
        content.extend(table.lengths);
        content.extend(table.values);
        segment(&mut out, 0xc4, &content);
    }
    // One scan with all components and all coefficients.
    segment(&mut out, 0xda, &[3, 1, 0, 2, 0, 3, 0, 0, 63, 0]);
    out
}

/// A marker segment: its length counts itself.
fn segment(out: &mut Vec<u8>, marker: u8, content: &[u8]) {
    let length = u16::try_from(content.len() + 2).unwrap_or(u16::MAX);
    out.extend([0xff, marker]);
    out.extend(length.to_be_bytes());
    out.extend(content);
}

/// JFIF's YCbCr in whole numbers, shifted so that the middle is zero. Greys have no Cb and no Cr.
fn ycbcr([red, green, blue]: [u8; 3]) -> [i16; 3] {
    let [r, g, b] = [red, green, blue].map(f32::from);
    [
        0.299 * r + 0.587 * g + 0.114 * b - 128.0,
        -0.168_736 * r - 0.331_264 * g + 0.5 * b,
        0.5 * r - 0.418_688 * g - 0.081_312 * b,
    ]
    .map(|value: f32| {
        #[expect(clippy::cast_possible_truncation, reason = "all three are within a byte's range")]
        let whole = value.round() as i16;
        whole
    })
}

/// The colours of a block; beyond the picture's edges its last column and row go on.
fn block(canvas: &Canvas, left: usize, top: usize) -> [u8; BLOCK] {
    let (right, bottom) = (usize::from(canvas.width()) - 1, usize::from(canvas.height()) - 1);
    std::array::from_fn(|place| canvas.at((left + place % SIDE).min(right), (top + place / SIDE).min(bottom)))
}

/// The forward transform and the quantization, in zigzag order.
fn transform(samples: &[i16; BLOCK]) -> [i32; BLOCK] {
    if samples.iter().all(|sample| *sample == samples[0]) {
        // Of one colour: nothing but its DC coefficient.
        let mut coefficients = [0; BLOCK];
        coefficients[0] = quantized(f32::from(samples[0]) * 8.0, 0);
        return coefficients;
    }
    let waves = &*WAVES;
    let mut rows = [0.0_f32; BLOCK];
    for (y, row) in samples.chunks_exact(SIDE).enumerate() {
        for (u, wave) in waves.iter().enumerate() {
            rows[y * SIDE + u] = row.iter().zip(wave).map(|(sample, wave)| f32::from(*sample) * wave).sum();
        }
    }
    let mut coefficients = [0.0_f32; BLOCK];
    for (v, wave) in waves.iter().enumerate() {
        for u in 0..SIDE {
            coefficients[v * SIDE + u] =
                wave.iter().enumerate().map(|(y, wave)| rows[y * SIDE + u] * wave).sum();
        }
    }
    ZIGZAG.map(|place| quantized(coefficients[place], place))
}

/// The coefficient at a place of a block in steps of its quantization.
fn quantized(coefficient: f32, place: usize) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "coefficients of eight bits have eleven")]
    let steps = (coefficient / f32::from(step(place))).round() as i32;
    steps
}

/// The entropy-coded part: bits, the first one highest; a byte of ones is followed by one of zeros (T.81 B.1.1.5).
#[derive(Default)]
struct Bits {
    out: Vec<u8>,
    held: u32,
    count: u32,
}

impl Bits {
    fn put(&mut self, bits: u32, count: u32) {
        // At most 7 bits are held, and at most 16 come.
        self.held = (self.held << count) | bits;
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let [.., byte] = (self.held >> self.count).to_be_bytes();
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
        self.held &= (1 << self.count) - 1;
    }

    fn code(&mut self, codes: &Codes, value: u8) {
        let (code, length) = codes[usize::from(value)];
        self.put(code, length);
    }

    /// A number of so many bits: a negative one as the complement of its amount (T.81 F.1.2.1).
    fn number(&mut self, number: i32, size: u32) {
        let amount = number.unsigned_abs();
        let bits = if number < 0 { ((1 << size) - 1) ^ amount } else { amount };
        self.put(bits, size);
    }

    fn block(&mut self, coefficients: &[i32; BLOCK], before: i32) {
        let difference = coefficients[0] - before;
        let (size, byte) = size_of(difference);
        self.code(&DC_CODES, byte);
        self.number(difference, size);
        let mut zeros = 0;
        for coefficient in &coefficients[1..] {
            if *coefficient == 0 {
                zeros += 1;
                continue;
            }
            for _ in 0..zeros / 16 {
                self.code(&AC_CODES, ZERO_RUN);
            }
            let (size, byte) = size_of(*coefficient);
            self.code(&AC_CODES, ((zeros % 16) << 4) | byte);
            self.number(*coefficient, size);
            zeros = 0;
        }
        if zeros > 0 {
            self.code(&AC_CODES, END_OF_BLOCK);
        }
    }

    /// Fills the last byte with ones.
    fn end(mut self) -> Vec<u8> {
        let missing = (8 - self.count) % 8;
        self.put((1 << missing) - 1, missing);
        self.out
    }
}

/// How many bits a number needs, as a count and as a byte.
fn size_of(number: i32) -> (u32, u8) {
    let size = 32 - number.unsigned_abs().leading_zeros();
    (size, u8::try_from(size).unwrap_or_default())
}
