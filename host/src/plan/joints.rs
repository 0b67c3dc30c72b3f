//! Which joint stands between two stages: the matrix of requirements.

use stagehost_ring::Capacity;

use super::{
    error::{PlanError, PlanErrorKind},
    planned::{Group, PlannedJoint, PlannedStage},
};
use crate::{
    joint::{JointKind, PIPE_CAPACITY},
    spec::Requirement,
};

/// The matrix. `None`: one of them forbids it.
fn joint_of(stdout: Requirement, stdin: Requirement) -> Option<JointKind> {
    match (stdout, stdin) {
        (Requirement::Forbid, _) | (_, Requirement::Forbid) => None,
        (Requirement::Any, Requirement::Any) => Some(JointKind::Ring),
        (Requirement::PreferFile, _) | (_, Requirement::PreferFile) => Some(JointKind::Pipe),
    }
}

/// Chooses the joint behind each stage but the last, and checks both ends. `connected` says whether something is at the
/// pipeline's stdin and at its stdout.
pub(super) fn negotiate(
    stages: &mut [PlannedStage],
    groups: &[Group],
    connected: (bool, bool),
) -> Result<Vec<PlannedJoint>, PlanError> {
    let conflict = |stage: &PlannedStage, side: &str, message: String, hint: &str| {
        let place = format!("{}.requires.{side}", stage.place);
        Err(PlanError::new(PlanErrorKind::Pipeline, place, message).hint(hint))
    };
    for stage in stages.iter_mut().filter(|stage| stage.is_command()) {
        // A program has descriptors and nothing else, so to be content with anything comes to the same.
        for side in [&mut stage.requires.0, &mut stage.requires.1] {
            if *side == Requirement::Any {
                *side = Requirement::PreferFile;
            }
        }
    }
    if let Some(first) = stages.first()
        && first.requires.0 == Requirement::Forbid
        && connected.0
    {
        let message = format!("stage `{}` forbids a connected stdin, and one is connected", first.name);
        return conflict(first, "stdin", message, "give the pipeline \"stdin\": \"null\"");
    }
    if let Some(last) = stages.last()
        && last.requires.1 == Requirement::Forbid
        && connected.1
    {
        let message = format!("stage `{}` forbids a connected stdout, and one is connected", last.name);
        return conflict(last, "stdout", message, "give the pipeline \"stdout\": \"null\"");
    }
    super::nest::refuse_ends_inside(groups, stages.len(), connected)?;
    let mut joints = Vec::with_capacity(stages.len().saturating_sub(1));
    for pair in stages.windows(2) {
        let [up, down] = pair else { continue };
        let Some(kind) = joint_of(up.requires.1, down.requires.0) else {
            return if up.requires.1 == Requirement::Forbid {
                let message =
                    format!("stage `{}` forbids a connected stdout, and stage `{}` reads from it", up.name, down.name);
                conflict(up, "stdout", message, "put the stage last, with \"stdout\": \"null\"")
            } else {
                let message =
                    format!("stage `{}` forbids a connected stdin, and stage `{}` writes to it", down.name, up.name);
                conflict(down, "stdin", message, "put the stage first, with \"stdin\": \"null\"")
            };
        };
        let capacity = match kind {
            JointKind::Ring => up
                .buffer
                .map_or(Capacity::default(), |bytes| Capacity::at_least(usize::try_from(bytes).unwrap_or(usize::MAX)))
                .bytes() as u64,
            JointKind::Pipe => up.buffer.unwrap_or(PIPE_CAPACITY).min(PIPE_CAPACITY),
        };
        joints.push(PlannedJoint { kind, capacity });
    }
    Ok(joints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrix_has_nine_cells() {
        use JointKind::{Pipe, Ring};
        use Requirement::{Any, Forbid, PreferFile};
        let cells = [
            (Any, Any, Some(Ring)),
            (Any, PreferFile, Some(Pipe)),
            (Any, Forbid, None),
            (PreferFile, Any, Some(Pipe)),
            (PreferFile, PreferFile, Some(Pipe)),
            (PreferFile, Forbid, None),
            (Forbid, Any, None),
            (Forbid, PreferFile, None),
            (Forbid, Forbid, None),
        ];
        for (stdout, stdin, expected) in cells {
            assert_eq!(joint_of(stdout, stdin), expected, "{stdout:?} | {stdin:?}");
        }
    }
}
