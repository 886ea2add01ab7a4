//! What each node has for one more spawn, read node by node in steps of a bounded size.

use std::collections::HashMap;
use std::sync::Arc;

use model::{NodeKind, Supply};
use redis::pipe;

use super::{Redis, unexpected};
use crate::error::RegistryError;
use crate::verdict::{Assessment, Offer, Room};

const CALL: &str = "assess";
/// Nodes in one step: Redis serves no other call during it.
const STEP: usize = 100;
/// Between the fields of one node in the script's answer.
const SEPARATOR: char = '\u{1f}';

impl Redis {
    pub(crate) async fn assess(&self) -> Result<Vec<Assessment>, RegistryError> {
        let mut read = pipe();
        read.smembers(self.key("names")).hgetall(self.key("kinds"));
        let (names, kinds): (Vec<String>, HashMap<String, String>) = self.ask(CALL, &read).await?;
        let kinds: HashMap<String, Arc<NodeKind>> = kinds
            .into_iter()
            .filter_map(|(text, json)| Some((text, Arc::new(serde_json::from_str(&json).ok()?))))
            .collect();
        let mut nodes = Vec::with_capacity(names.len());
        for names in names.chunks(STEP) {
            let answer: Vec<String> = self
                .run(CALL, &self.0.scripts.assess, |args| {
                    args.arg(names);
                })
                .await?;
            for line in &answer {
                let name = line.split(SEPARATOR).next().unwrap_or_default();
                nodes.extend(self.0.damaged.readable(name, assessment(line, &kinds)));
            }
        }
        nodes.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(nodes)
    }
}

fn assessment(line: &str, kinds: &HashMap<String, Arc<NodeKind>>) -> Result<Assessment, RegistryError> {
    let fields: Vec<&str> = line.split(SEPARATOR).collect();
    let [
        node,
        kind,
        eligibility,
        availability,
        used,
        slots,
        gpu_used,
        gpus,
        csr,
        csr_fails,
        ssr,
        ssr_fails,
        csr_handicap,
        ssr_handicap,
    ] = fields[..]
    else {
        return Err(unexpected(CALL, format!("{} fields of a node", fields.len())));
    };
    // A count that is lost or nonsense is shown as none; the room says that the record cannot be read.
    let count = |text: &str| text.parse().unwrap_or(0);
    let gpus = gpus.parse().ok().map(|total: u32| (count(gpu_used), total));
    Ok(Assessment {
        node: node.parse().map_err(|e| unexpected(CALL, format!("node {node:?} {e}")))?,
        kind: kinds.get(kind).cloned(),
        eligibility: eligibility.parse().map_err(|e| unexpected(CALL, format!("eligibility {e}")))?,
        availability: availability.parse().map_err(|e| unexpected(CALL, format!("availability {e}")))?,
        slots: (count(used), count(slots)),
        gpus,
        csr: offer(csr, csr_fails, csr_handicap),
        ssr: offer(ssr, ssr_fails, ssr_handicap),
    })
}

fn offer(room: &str, failing: &str, handicap: &str) -> Offer {
    let room = match room {
        "" => return Offer::not_offered(),
        "full" => Room::Full,
        "gpus" => Room::GpuFull,
        load => load.parse().map_or(Room::Unreadable, Room::Free),
    };
    let handicap = handicap.parse().unwrap_or(Supply::MAX_HANDICAP);
    Offer { room, failing: failing.strip_prefix('f').map(str::to_owned), handicap }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_free() {
        assert_eq!(offer("0.25", "", "2"), Offer { room: Room::Free(0.25), failing: None, handicap: 2 });
        assert_eq!(offer("full", "fno license", "1").failing.as_deref(), Some("no license"));
        for lack in ["closed", "unreadable", "nonsense"] {
            assert_eq!(offer(lack, "", "1").room, Room::Unreadable, "{lack}");
        }
        let of = |fields: [&str; 14]| assessment(&fields.join("\u{1f}"), &HashMap::new());
        let node =
            of(["a", "default|", "eligible", "up", "1", "", "", "-1", "unreadable", "", "", "", "1", "1"])
                .unwrap();
        assert_eq!((node.slots, node.gpus, node.kind), ((1, 0), None, None));
        assert!(of(["a", "default|", "open", "up", "1", "4", "0", "-1", "0", "", "", "", "1", "1"]).is_err());
        assert!(assessment("a", &HashMap::new()).is_err());
    }
}
