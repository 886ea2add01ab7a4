//! How inputs are made from others: bytes and pieces that are changed, left out, repeated, moved, taken from another input or from the
//! format's words.

/// No input grows beyond this.
const MAX_LENGTH: usize = 1 << 16;
/// Changes of one input.
const MAX_CHANGES: u32 = 6;
/// Bytes on which parsers decide.
const SPECIAL: &[u8] = b"\0\n\r\t \"\\%&=/?:;,.{}[]()<>+-_09azAZ\x7f\x80\xc3\xff";

/// An input with one or more changes.
pub(crate) fn changed(random: &mut fastrand::Rng, inputs: &[Vec<u8>], words: &[&str]) -> Vec<u8> {
    let mut input = inputs.get(random.usize(..inputs.len())).cloned().unwrap_or_default();
    for _ in 0..random.u32(1..=MAX_CHANGES) {
        change(random, &mut input, inputs, words);
    }
    input.truncate(MAX_LENGTH);
    input
}

fn change(random: &mut fastrand::Rng, input: &mut Vec<u8>, inputs: &[Vec<u8>], words: &[&str]) {
    let at = random.usize(..=input.len());
    match random.u32(..10) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u32(..8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = SPECIAL[random.usize(..SPECIAL.len())];
            }
        }
        2 => input.insert(at, SPECIAL[random.usize(..SPECIAL.len())]),
        3 => input.truncate(at),
        4 => {
            input.drain(piece(random, input.len()));
        }
        5 => {
            let copy = input[piece(random, input.len())].to_vec();
            let times = [1, 1, 2, 50][random.usize(..4)];
            input.splice(at..at, copy.repeat(times));
        }
        6 => {
            let other = &inputs[random.usize(..inputs.len())];
            let copy = other[piece(random, other.len())].to_vec();
            input.splice(at..at, copy);
        }
        7 if !words.is_empty() => {
            let word = words[random.usize(..words.len())].bytes();
            input.splice(at..at, word);
        }
        8 => {
            let number = [0, 1, 255, 65_535, u64::MAX / 2, u64::MAX][random.usize(..6)];
            input.splice(at..at, number.to_string().into_bytes());
        }
        _ => {
            let place = piece(random, input.len());
            let noise: Vec<u8> = place.clone().map(|_| random.u8(..)).collect();
            input.splice(place, noise);
        }
    }
    // Repeating repeats doubles what is there.
    input.truncate(MAX_LENGTH);
}

/// A place in an input, short more often than long.
fn piece(random: &mut fastrand::Rng, length: usize) -> std::ops::Range<usize> {
    let from = random.usize(..=length);
    let longest = if random.bool() { 4 } else { length };
    from..(from + random.usize(..=longest)).min(length)
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn a_seed_makes_the_same_inputs_each_time_and_most_of_them_are_new() {
        let inputs = [b"GET / HTTP/1.1".to_vec(), Vec::new()];
        let made = |seed| -> Vec<Vec<u8>> {
            let mut random = fastrand::Rng::with_seed(seed);
            (0..500).map(|_| changed(&mut random, &inputs, &["POST"])).collect()
        };
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
        let new = made(1).into_iter().filter(|input| !inputs.contains(input)).count();
        assert!(new > 400, "{new} of 500 are new");
    }
}
