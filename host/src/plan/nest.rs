//! Nested pipelines: their stages stand among the outer ones, and their ends become the joints.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    ends::{Input, Outlet, plan_stdin, plan_stdout},
    error::{PlanError, PlanErrorKind},
    layers::Layers,
    planned::{Group, Node},
    planner::Planner,
};
use crate::{
    joint::{Named, Output},
    policy::Policy,
    spec::{
        self, Bound, MAX_FILE_BYTES, MAX_STAGES, PipelineSpec, Place, StageSpec, StdinSpec, StdoutSpec, to_path,
        to_text, values,
    },
};

/// How deep pipelines may be nested.
const MAX_DEPTH: usize = 32;

impl Planner<'_> {
    /// Plans the stages of a pipeline. `around` are the files of the pipelines around this one.
    pub(super) fn pipeline(
        &mut self,
        spec: &PipelineSpec,
        layers: &Layers<'_>,
        prefix: &str,
        place: &Place,
        around: &mut Vec<PathBuf>,
    ) -> Result<Vec<Node>, PlanError> {
        let mut nodes = Vec::with_capacity(spec.stages.len());
        for (index, (stage, name)) in spec.stages.iter().zip(spec.stage_names()).enumerate() {
            let place = place.key("stages").index(index);
            let name = format!("{prefix}{name}");
            if let Some(pipeline) = &stage.pipeline {
                nodes.push(self.nested(stage, pipeline, layers, name, &place, around)?);
                continue;
            }
            let planned = self.stage(stage, layers, name, &place)?;
            self.stages.push(planned);
            nodes.push(Node::Stage(self.stages.len() - 1));
            self.options.policy.check_stages(self.stages.len())?;
            if self.stages.len() > MAX_STAGES {
                let message = format!("with its nested pipelines there are more than {MAX_STAGES} stages");
                return Err(PlanError::new(PlanErrorKind::Pipeline, place, message));
            }
        }
        Ok(nodes)
    }

    fn nested(
        &mut self,
        stage: &StageSpec,
        pipeline: &str,
        layers: &Layers<'_>,
        name: String,
        place: &Place,
        around: &mut Vec<PathBuf>,
    ) -> Result<Node, PlanError> {
        let path = layers.base.join(to_path(pipeline));
        let place = place.key("pipeline");
        let bad = |message: String| PlanError::new(PlanErrorKind::Pipeline, &place, message);
        if around.is_empty() {
            around.extend(self.options.file.iter().filter_map(|file| self.options.policy.real_path(file)));
        }
        self.options.policy.check_kind("pipeline", &place)?;
        let named = self.options.policy.check_plugin(&path, layers.base, &place)?;
        let real = match if named.is_resolved() { Ok(named.path().to_owned()) } else { fs::canonicalize(&path) } {
            // Deeper than any path is long: it goes by the name that it has from here.
            Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => Ok(path.clone()),
            real => real,
        };
        let refused = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => PlanErrorKind::NotFound,
                _ => PlanErrorKind::Pipeline,
            };
            PlanError::system(kind, &place, &path, &error)
        };
        let found = real.map_err(refused)?;
        if around.contains(&found) {
            return Err(bad(format!("{pipeline} contains itself")).hint("a pipeline cannot stand inside itself"));
        }
        if around.len() >= MAX_DEPTH {
            return Err(bad(format!("pipelines are nested more than {MAX_DEPTH} deep")));
        }
        let text = named.read(MAX_FILE_BYTES as u64).map_err(refused)?;
        // Each value is read as something that is larger.
        self.spend(text.len().saturating_add(values(&text).saturating_mul(size_of::<usize>() * 16)), &place)?;
        let spec = spec::parse(&text).map_err(|error| PlanError {
            hint: error.hint.clone(),
            ..bad(format!("{pipeline} is no good pipeline: {error}"))
        })?;
        let refused = [
            ("on_failure", spec.on_failure.is_some()),
            ("kill_after", spec.kill_after.is_some()),
            ("linger", spec.linger.is_some()),
            ("upstream", spec.upstream.is_some()),
        ];
        if let Some((key, _)) = refused.into_iter().find(|(_, set)| *set) {
            return Err(PlanError::new(
                PlanErrorKind::Pipeline,
                format!("{place}, in {pipeline}: {key}"),
                "a pipeline inside another one cannot say this",
            )
            .hint("it holds for the whole run: say it in the outermost file"));
        }
        if self.groups.len() >= MAX_STAGES {
            return Err(bad(format!("there are more than {MAX_STAGES} nested pipelines")));
        }
        // Its directory as its path was given; under a policy, where that is.
        let given = path.parent().filter(|base| *base != Path::new("")).unwrap_or(Path::new("."));
        let at = match named.is_resolved() {
            true => self.options.policy.check_plugin(given, layers.base, &place)?,
            false => Named::anywhere(given),
        };
        let base = self.options.policy.base_at(at.path(), at.clone());
        let index = self.groups.len();
        let start = self.stages.len();
        self.groups.push(Group {
            name: name.clone(),
            source: pipeline.to_owned(),
            place: place.to_string(),
            stages: start..start,
            timeout: spec.timeout.and_then(Bound::value).map(|span| span.0),
            stdin: spec.stdin.clone().filter(|stdin| *stdin != StdinSpec::Inherit),
            stdout: spec.stdout.clone().filter(|stdout| *stdout != StdoutSpec::Inherit),
            base: base.clone(),
        });
        around.push(found);
        let mut inner = layers.with(stage);
        inner.enter(&spec, &base);
        inner.is_nested = true;
        let nodes = self.pipeline(&spec, &inner, &format!("{name}/"), &Place::root(), around).map_err(|error| {
            // Where it stands in the inner file, seen from the outer one.
            PlanError { place: format!("{place}, in {pipeline}: {}", error.place), ..error }
        })?;
        around.pop();
        self.groups[index].stages.end = self.stages.len();
        for stage in &mut self.stages[start..] {
            if !stage.place.contains(", in ") {
                stage.place = format!("{place}, in {pipeline}: {}", stage.place);
            }
        }
        Ok(Node::Group(index, nodes))
    }
}

/// An inner pipeline that names its own input or output forbids a connected one.
pub(super) fn refuse_ends_inside(groups: &[Group], stages: usize, connected: (bool, bool)) -> Result<(), PlanError> {
    for group in groups {
        let refuse = |what: &str, hint: &str| {
            let message = format!("{} names its own {what}, and here one is connected", group.source);
            Err(PlanError::new(PlanErrorKind::Pipeline, &group.place, message).hint(hint))
        };
        if group.stages.is_empty() && (group.stdin.is_some() || group.stdout.is_some()) {
            let message = format!("{} names an input or output and has no stage for it", group.source);
            return Err(PlanError::new(PlanErrorKind::Pipeline, &group.place, message));
        }
        if group.stdin.is_some() && (group.stages.start > 0 || connected.0) {
            return refuse(
                "stdin",
                "leave it out there, or put the stage first and give this pipeline \"stdin\": \"null\"",
            );
        }
        if group.stdout.is_some() && (group.stages.end < stages || connected.1) {
            return refuse(
                "stdout",
                "leave it out there, or put the stage last and give this pipeline \"stdout\": \"null\"",
            );
        }
    }
    Ok(())
}

/// The ends, if nothing is connected out here and a nested pipeline there names its own.
pub(super) fn ends_from_within(
    groups: &[Group],
    stages: usize,
    policy: &Policy,
    stdin: Input,
    stdout: Outlet,
    stdout_name: String,
) -> Result<(Input, Outlet, String), PlanError> {
    let inside = |group: &Group, error: PlanError| PlanError {
        place: format!("{}, in {}: {}", group.place, group.source, error.place),
        ..error
    };
    let root = Place::root();
    let first = groups.iter().filter(|group| group.stages.start == 0 && !group.stages.is_empty());
    let stdin = match first.rev().find(|group| group.stdin.is_some()) {
        Some(group) => plan_stdin(group.stdin.as_ref(), &group.base, policy, &root.key("stdin"))
            .map_err(|error| inside(group, error))?,
        None => stdin,
    };
    let last = groups.iter().filter(|group| group.stages.end == stages && !group.stages.is_empty());
    let (stdout, name) = match last.rev().find_map(|group| group.stdout.as_ref().map(|stdout| (group, stdout))) {
        Some((group, StdoutSpec::File(file))) => {
            let output =
                plan_stdout(file, &group.base, policy, &root.key("stdout")).map_err(|error| inside(group, error))?;
            (Outlet::Place(output), to_text(group.base.join(to_path(&file.file))))
        }
        Some((_, StdoutSpec::Null)) => (Outlet::Null, "nothing".to_owned()),
        Some((_, StdoutSpec::Inherit)) => (Outlet::Place(Output::Inherit), "standard output".to_owned()),
        None => (stdout, stdout_name),
    };
    Ok((stdin, stdout, name))
}
