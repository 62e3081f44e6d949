//! A plan as a person reads it before, and after, it is carried out.

use driftless_sync::plan::{Action, Plan, Side, Step};
use serde_json::{Value, json};

use super::view::Device;
use crate::runs::HeldDeletion;

/// Actions and conflicts that are shown; the counts tell of all.
const SHOWN: usize = 1000;

/// The plan: counts, the first actions and conflicts, and how many deletions wait.
pub(super) fn preview(plan: &Plan, held: &[HeldDeletion], device: &Device) -> Value {
    json!({
        "counts": plan.counts(),
        "actions": plan.actions.iter().take(SHOWN).map(action).collect::<Vec<_>>(),
        "more_actions": plan.actions.len().saturating_sub(SHOWN),
        "conflicts": plan.conflicts.iter().take(SHOWN).collect::<Vec<_>>(),
        "more_conflicts": plan.conflicts.len().saturating_sub(SHOWN),
        "held_deletions": held.len(),
        "base_path": device.base,
    })
}

fn action(action: &Action) -> Value {
    let (name, from, size) = match &action.step {
        Step::CreateFolder => ("create_folder", None, None),
        Step::Write { file, from: (side, from), .. } => {
            let name = match (side, action.on) {
                (Side::Device, Side::Server) => "upload",
                (Side::Server, Side::Device) => "download",
                _ => "copy",
            };
            (name, (*from != action.path).then_some(from), Some(file.size))
        }
        Step::SetMetadata { .. } => ("set_metadata", None, None),
        Step::Move { from, .. } => ("move", Some(from), None),
        Step::DeleteFile(_) => ("delete", None, None),
        Step::DeleteFolder => ("delete_folder", None, None),
    };
    json!({"action": name, "on": action.on, "path": action.path, "from": from, "size": size})
}
