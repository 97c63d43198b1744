//! One rtnetlink conversation inside a namespace.

use std::io;

use rtnetlink::Handle;

use crate::{Error, Namespace, Result};

/// Talk rtnetlink inside `namespace`; `action` says what for, in errors.
pub(crate) fn converse(
    namespace: &Namespace,
    action: &str,
    talk: impl AsyncFnOnce(Handle) -> std::result::Result<(), rtnetlink::Error> + Send,
) -> Result<()> {
    query(namespace, action, talk)
}

/// As [`converse`], with an answer.
pub(crate) fn query<T: Send>(
    namespace: &Namespace,
    action: &str,
    talk: impl AsyncFnOnce(Handle) -> std::result::Result<T, rtnetlink::Error> + Send,
) -> Result<T> {
    namespace
        .run(|| -> io::Result<std::result::Result<T, rtnetlink::Error>> {
            // The runtime and its socket are born and die on this thread: nothing outlives the call.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()?;
            runtime.block_on(async {
                let (connection, handle, _unsolicited) = rtnetlink::new_connection()?;
                let serving = tokio::spawn(connection);
                let outcome = talk(handle).await;
                serving.abort();
                Ok(outcome)
            })
        })
        .and_then(|outcome| outcome)
        .map_err(|error| Error::from_io(action, error))?
        .map_err(|error| refused(action, error))
}

/// The kernel's answer as an error of ours.
fn refused(action: &str, error: rtnetlink::Error) -> Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => Error::from_io(action, message.to_io()),
        other => Error::from_io(action, io::Error::other(other)),
    }
}
