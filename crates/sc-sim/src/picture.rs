//! What a server-side viewer is shown: who this server is, that it is the simulator, and something that moves.
//!
//! Pictures are small. A viewer stretches a picture to the size of its window, so only the proportions follow what it asks
//! for.

mod canvas;
mod jpeg;

use canvas::{Canvas, Colour, LETTER};

/// The longer side of a picture, in pixels.
const LONGER_SIDE: u32 = 480;
/// The shorter side is not shorter than this.
const MIN_SIDE: u32 = 64;
/// What a viewer is taken to want that names no size.
const DEFAULT_SIZE: (u16, u16) = (800, 600);
/// From the edges to what is written, in pixels.
const MARGIN: usize = 12;
/// How many pictures it takes the moving part to get from one side to the other.
const STEPS: u32 = 24;

/// The words of a picture, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) spawn: String,
    /// Known if the agent says it.
    pub(crate) node: Option<String>,
    pub(crate) model: String,
}

/// Draws and encodes the picture of this number for a viewer of this size.
pub(crate) fn draw(words: &Words, size: (u16, u16), number: u32) -> Vec<u8> {
    let (width, height) = fitted(size);
    let mut canvas = Canvas::new(width, height);
    let (width, height) = (usize::from(width), usize::from(height));
    let scale = if width >= 400 { 2 } else { 1 };
    let line = LETTER.1 * scale;
    canvas.fill(0, 0, width, line + 2 * MARGIN, Colour::Bar);
    canvas.write(MARGIN, MARGIN, scale, "HATCHERY SIMULATOR", Colour::Text);

    let mut top = line + 3 * MARGIN;
    // What the vendor's viewer asks for first, whatever its model is.
    let model = if words.model == "_empty" { "" } else { &words.model };
    let facts = [
        ("", "no licensed server, no model", Colour::Faint),
        ("spawn", &words.spawn, Colour::Text),
        ("node", words.node.as_deref().unwrap_or_default(), Colour::Text),
        ("model", model, Colour::Text),
        ("picture", &number.to_string(), Colour::Faint),
    ];
    let letters = (width - MARGIN).saturating_sub(MARGIN) / (LETTER.0 * scale);
    for (name, value, colour) in facts.iter().filter(|(_, value, _)| !value.is_empty()) {
        let text = format!("{name} {value}");
        // What does not fit into one line has its value begin a line of its own.
        let parts = if text.trim_start().chars().count() <= letters {
            vec![text.trim_start().to_owned()]
        } else {
            [lines(name, letters), lines(value, letters)].concat()
        };
        for part in parts {
            canvas.write(MARGIN, top, scale, &part, *colour);
            top += line + scale;
        }
    }

    let side = height / 8;
    let way = width.saturating_sub(2 * MARGIN + side);
    // There and back again.
    let at = number % (2 * STEPS);
    let at = usize::try_from(at.min(2 * STEPS - at)).unwrap_or_default();
    let left = MARGIN + way * at / usize::try_from(STEPS).unwrap_or(1);
    canvas.fill(left, height.saturating_sub(MARGIN + side), side, side, Colour::Moving);
    jpeg::encode(&canvas)
}

/// The size of the picture: the viewer's proportions, in whole blocks, so that none of it has to be cut off again.
fn fitted(size: (u16, u16)) -> (u16, u16) {
    let (width, height) = if size.0 == 0 || size.1 == 0 { DEFAULT_SIZE } else { size };
    let longer = u32::from(width.max(height));
    let side = |side: u16| {
        let side = (u32::from(side) * LONGER_SIDE / longer).max(MIN_SIDE);
        u16::try_from(side / 8 * 8).unwrap_or(u16::MAX)
    };
    (side(width), side(height))
}

/// A text in lines of so many letters.
fn lines(text: &str, letters: usize) -> Vec<String> {
    let all: Vec<char> = text.chars().collect();
    all.chunks(letters.max(1)).map(|line| line.iter().collect()).collect()
}

#[cfg(test)]
mod tests;
