use super::*;

fn words() -> Words {
    Words {
        spawn: "01890a5d-ac96-774b-bcce-b302099a8057".to_owned(),
        node: Some("render_07.farm:A/b".to_owned()),
        model: "bolt.scs".to_owned(),
    }
}

/// The segments before the scan, by marker, and the scan's bytes.
fn parts(jpeg: &[u8]) -> (Vec<(u8, Vec<u8>)>, &[u8]) {
    assert_eq!(jpeg[..2], [0xff, 0xd8], "the start of an image");
    assert_eq!(jpeg[jpeg.len() - 2..], [0xff, 0xd9], "its end");
    let mut at = 2;
    let mut segments = Vec::new();
    loop {
        assert_eq!(jpeg[at], 0xff, "a marker");
        let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        segments.push((jpeg[at + 1], jpeg[at + 4..at + 2 + length].to_vec()));
        at += 2 + length;
        if segments.last().unwrap().0 == 0xda {
            return (segments, &jpeg[at..jpeg.len() - 2]);
        }
    }
}

#[test]
fn a_picture_is_a_baseline_jpeg_with_all_its_tables() {
    let jpeg = draw(&words(), (800, 600), 1);
    let (segments, scan) = parts(&jpeg);
    let markers: Vec<u8> = segments.iter().map(|(marker, _)| *marker).collect();
    assert_eq!(markers, [0xe0, 0xdb, 0xc0, 0xc4, 0xc4, 0xda]);
    let frame = &segments[2].1;
    assert_eq!(frame[..6], [8, 1, 104, 1, 224, 3], "eight bits, 360 rows, 480 columns, three components");
    for (_, table) in segments.iter().filter(|(marker, _)| *marker == 0xc4) {
        let codes: usize = table[1..17].iter().map(|count| usize::from(*count)).sum();
        assert_eq!(table.len(), 17 + codes);
    }
    assert!(scan.windows(2).all(|pair| pair[0] != 0xff || pair[1] == 0), "no marker within the scan");
}

#[test]
fn every_picture_differs_from_the_one_before() {
    let mut before = draw(&words(), (640, 480), 0);
    for number in 1..=2 * STEPS + 1 {
        let next = draw(&words(), (640, 480), number);
        assert_ne!(next, before, "{number}");
        before = next;
    }
}

#[test]
fn any_window_gets_a_small_picture_of_its_proportions() {
    for (asked, given) in [
        ((0, 0), (480, 360)),
        ((1920, 1080), (480, 264)),
        ((300, 900), (160, 480)),
        ((1, 1), (480, 480)),
        ((u16::MAX, 1), (480, 64)),
        ((1, u16::MAX), (64, 480)),
    ] {
        assert_eq!(fitted(asked), given, "{asked:?}");
        let words = Words { model: "\u{e9}\u{1f600} \\".repeat(50), ..words() };
        let (segments, _) = parts(&draw(&words, asked, u32::MAX)).clone();
        let frame = &segments[2].1;
        let side = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
        assert_eq!((side(3), side(1)), given);
    }
}
