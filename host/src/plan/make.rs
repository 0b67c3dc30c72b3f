//! From what a file says to a plan.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ends::{Input, Outlet, plan_stdin, plan_stdout},
    error::{PlanError, PlanErrorKind},
    joints,
    layers::Layers,
    nest,
    options::{Overrides, PlanOptions},
    planned::{KILL_AFTER, LINGER, MOST_PATIENT, Node, Plan, Planned, PlannedStage},
    planner::{Planner, kept},
};
use crate::{
    function::Function,
    joint::Output,
    outcome::Matcher,
    spec::{Bound, PipelineSpec, Place, StageSpec, StdinSpec, StdoutSpec, to_path, to_text},
};

/// What no file can name.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) functions: Vec<Function>,
    /// What decides which ends of a stage are no failure, by the stage's index.
    pub(crate) matchers: Vec<Option<Matcher>>,
    /// Whether the program gives each run its input, and its output.
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
}

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    ///
    /// The first thing that would keep the run from starting.
    pub fn new(spec: &PipelineSpec, options: &PlanOptions) -> Result<Self, PlanError> {
        Self::assemble(spec, options, Parts::default())
    }

    /// Makes a plan, and goes on where something is wrong with a stage: for telling all that is wrong, not the first of it. There is a plan
    /// only if nothing is.
    pub fn with_all_errors(spec: &PipelineSpec, options: &PlanOptions) -> (Option<Self>, Vec<PlanError>) {
        const MOST: usize = 50;
        /// How long it goes on looking for more.
        const PATIENCE: Duration = Duration::from_secs(5);
        let began = Instant::now();
        let names = spec.stage_names();
        let mut spec = spec.clone();
        let mut errors: Vec<PlanError> = Vec::new();
        loop {
            let error = match Self::assemble_from(began, &spec, options, Parts::default()) {
                Ok(plan) => return (errors.is_empty().then_some(plan), errors),
                Err(error) => error,
            };
            let index = error.place.strip_prefix("stages[").and_then(|rest| rest.split_once(']'));
            let index = index.and_then(|(index, _)| index.parse::<usize>().ok());
            let is_known = errors.contains(&error);
            let is_late = error.kind == PlanErrorKind::Timeout || began.elapsed() > PATIENCE;
            let of_stdin = error.place.starts_with("stdin");
            if !is_known {
                errors.push(error);
            }
            // What is wrong is put aside; one that is wrong again is beyond that.
            match index.and_then(|index| spec.stages.get_mut(index).zip(names.get(index))) {
                _ if is_known || is_late || errors.len() >= MOST => return (None, errors),
                Some((stage, name)) => {
                    *stage = StageSpec {
                        wasm: Some("builtin:cat".into()),
                        name: Some(name.clone()),
                        ..StageSpec::default()
                    };
                }
                None if of_stdin => spec.stdin = Some(StdinSpec::Null),
                None => return (None, errors),
            }
        }
    }

    /// Makes a plan with functions and ends that no file can name.
    pub(crate) fn assemble(spec: &PipelineSpec, options: &PlanOptions, parts: Parts) -> Result<Self, PlanError> {
        Self::assemble_from(Instant::now(), spec, options, parts)
    }

    /// The same; planning `began` at that time.
    fn assemble_from(
        began: Instant,
        spec: &PipelineSpec,
        options: &PlanOptions,
        parts: Parts,
    ) -> Result<Self, PlanError> {
        let Parts { functions, matchers, stdin, stdout } = parts;
        let root = Place::root();
        let said = spec.timeout.and_then(Bound::value);
        let mut planner = Planner {
            options,
            began,
            timeout: said.into_iter().chain(options.policy.timeout).map(|span| span.0).min(),
            given: 0,
            inherited: {
                let given = options.environment.iter().filter(|(key, _)| options.policy.inherits(key));
                given.map(|(key, value)| kept(key.len() + value.len())).sum()
            },
            functions,
            is_shorthand: spec.is_shorthand,
            files: HashMap::new(),
            stages: Vec::new(),
            groups: Vec::new(),
        };
        options.policy.check_roots()?;
        let base = options.policy.base_of(&options.base)?;
        let nodes = planner.pipeline(spec, &Layers::root(spec, options, &base), "", &root, &mut Vec::new())?;
        for (node, matcher) in nodes.iter().zip(matchers) {
            match (node, matcher) {
                (Node::Stage(index), matcher) => planner.stages[*index].tolerance.matcher = matcher,
                (Node::Group(..), None) => {}
                (Node::Group(index, _), Some(_)) => {
                    let message = "what a nested pipeline's end means is for that pipeline to say";
                    return Err(PlanError::new(PlanErrorKind::Pipeline, &planner.groups[*index].place, message));
                }
            }
        }
        let Planner { mut stages, groups, given, .. } = planner;
        let policy = &options.policy;
        policy.check_stages(stages.len())?;
        let timeout = policy.timeout_of(spec.timeout, &root)?.map(|span| span.0);
        refuse_unknown_names(&options.overrides, &stages)?;
        let stdin = match stdin {
            true => Input::Program,
            false => plan_stdin(spec.stdin.as_ref(), &base, policy, &root.key("stdin"))?,
        };
        let (stdout, stdout_name) = match (stdout, spec.stdout.as_ref().unwrap_or(&StdoutSpec::Inherit)) {
            (true, _) => (Outlet::Program, "the program's writer".to_owned()),
            (false, StdoutSpec::Inherit) => (Outlet::Place(Output::Inherit), "standard output".to_owned()),
            (false, StdoutSpec::Null) => (Outlet::Null, "nothing".to_owned()),
            (false, StdoutSpec::File(file)) => {
                let output = plan_stdout(file, &base, policy, &root.key("stdout"))?;
                (Outlet::Place(output), to_text(base.join(to_path(&file.file))))
            }
        };
        let connected = (!matches!(stdin, Input::Null), !matches!(stdout, Outlet::Null));
        let joints = joints::negotiate(&mut stages, &groups, connected)?;
        let (stdin, stdout, stdout_name) =
            nest::ends_from_within(&groups, stages.len(), policy, stdin, stdout, stdout_name)?;
        if let Outlet::Place(Output::Descriptor(_)) = &stdout {
            policy.check_descriptor(&root.key("stdout").key("file"))?;
        }
        let kill_after = spec.kill_after.map_or(KILL_AFTER, |span| span.0.min(MOST_PATIENT));
        let linger = spec.linger.map_or(LINGER, |span| span.0.min(MOST_PATIENT));
        policy.check_patience(kill_after, KILL_AFTER, "kill_after")?;
        policy.check_patience(linger, LINGER, "linger")?;
        let mut plan = Planned {
            name: spec.name.clone(),
            stages: stages.into_iter().map(Arc::new).collect(),
            nodes,
            groups,
            joints,
            stdin,
            stdout,
            stdout_name,
            timeout,
            on_failure: spec.on_failure.unwrap_or_default(),
            kill_after,
            linger,
            upstream: spec.upstream.unwrap_or_default(),
            deterministic: options.overrides.deterministic,
            given: given as u64,
            code_bytes: None,
            took: began.elapsed(),
        };
        plan.code_bytes = policy.check_total_memory(plan.worst_case_memory())?;
        Ok(Self(Arc::new(plan)))
    }
}

/// Refuses to say something of a stage that is not there.
fn refuse_unknown_names(overrides: &Overrides, stages: &[PlannedStage]) -> Result<(), PlanError> {
    let of_limits = overrides.limits.iter().filter_map(|(name, _)| name.as_deref());
    for name in of_limits.chain(overrides.ok_exit.iter().map(|(name, _)| name.as_str())) {
        let by_number = name.parse::<usize>().is_ok_and(|number| (1..=stages.len()).contains(&number));
        if !by_number && stages.iter().all(|stage| stage.name != name) {
            return Err(PlanError::new(PlanErrorKind::End, "the flags", format!("no stage is called {name:?}"))
                .hint("`stagehost plan` shows the stages' names; a number from 1 works too"));
        }
    }
    Ok(())
}
