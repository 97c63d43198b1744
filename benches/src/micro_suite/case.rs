//! One thing that is counted.

/// What to do `calls` times, after preparations that are not counted. What is done checks itself, since a packet that is
/// dropped early would be a cheap one.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) calls: u32,
    pub(super) prepare: Box<dyn FnOnce() -> Box<dyn FnMut()>>,
}

impl Case {
    pub(super) fn new<F: FnMut() + 'static>(
        name: &'static str,
        calls: u32,
        prepare: impl FnOnce() -> F + 'static,
    ) -> Self {
        Self {
            name,
            calls,
            prepare: Box::new(move || Box::new(prepare())),
        }
    }
}
