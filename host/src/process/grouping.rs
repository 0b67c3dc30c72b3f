//! What a program leads.

/// What a program leads, by which whatever it starts is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    /// Nothing: it stays in the host's process group, where the terminal reaches it.
    Shared,
    /// A process group.
    Group,
    /// A session, and a process group in it. Others may be made in it.
    Session,
}
