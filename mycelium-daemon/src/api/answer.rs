//! Answers as bytes. Long ones are made once, shared by all who read them, and bounded in total.
//!
//! A full list of routes is tens of megabytes, and whoever reads it slowly makes us keep it. So the list of one snapshot
//! exists once, however many read it; all long answers together take [`MAX_HELD`] (or as much as the newest alone), and
//! when one more is made, those that read the oldest are cut off; so is who takes longer than [`READING_LIMIT`]. Readers
//! get copies of small pieces, so that what is cut off is also freed.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

/// Bytes of all long answers that exist at a time: several full lists of as many routes as the router holds.
const MAX_HELD: usize = 128 << 20;
/// Who has not read an answer in this time does not read it: it takes milliseconds on this machine.
const READING_LIMIT: Duration = Duration::from_secs(60);
/// Longer answers are shared and bounded; shorter ones are not worth it.
const LONG: usize = 64 << 10;
/// What a reader gets at a time. The server holds up to 16 of them for each connection.
const PIECE: usize = 16 << 10;

/// The type of what REST answers.
pub(super) const JSON: &str = "application/json";

/// A long text that may be taken from its readers.
#[derive(Debug)]
pub(crate) struct Answer {
    length: usize,
    text: Mutex<Option<Bytes>>,
}

/// All long answers that somebody still reads, oldest first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Arc<Mutex<VecDeque<Weak<Answer>>>>);

/// A part of what goes out.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Short.
    Own(Bytes),
    /// Long.
    Shared(Arc<Answer>),
}

impl Answer {
    fn piece(&self, from: usize) -> Option<Bytes> {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let text = text.as_ref()?;
        let piece = text.get(from..text.len().min(from + PIECE))?;
        Some(Bytes::copy_from_slice(piece))
    }

    fn revoke(&self) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_there(&self) -> bool {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.is_some()
    }
}

impl Shelf {
    /// Keep `text` for its readers, at the expense of those of the oldest answers if need be.
    pub(crate) fn put(&self, text: Vec<u8>) -> Arc<Answer> {
        self.put_within(text, MAX_HELD)
    }

    fn put_within(&self, text: Vec<u8>, max_held: usize) -> Arc<Answer> {
        let text = Bytes::from(text.into_boxed_slice());
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.retain(|answer| answer.upgrade().is_some_and(|answer| answer.is_there()));
        let held = answers.iter().filter_map(Weak::upgrade);
        let mut held = text.len() + held.map(|answer| answer.length).sum::<usize>();
        while held > max_held
            && let Some(oldest) = answers.pop_front()
        {
            if let Some(oldest) = oldest.upgrade() {
                tracing::debug!(
                    bytes = oldest.length,
                    "readers of an old answer are cut off"
                );
                held -= oldest.length;
                oldest.revoke();
            }
        }
        let answer = Arc::new(Answer {
            length: text.len(),
            text: Mutex::new(Some(text)),
        });
        answers.push_back(Arc::downgrade(&answer));
        answer
    }

    /// `text`, shared if it is long.
    pub(crate) fn part(&self, text: Vec<u8>) -> Part {
        if text.len() > LONG {
            Part::Shared(self.put(text))
        } else {
            Part::Own(text.into())
        }
    }
}

/// A list that may be made once for several readers: by what it was made from.
#[derive(Debug)]
pub(crate) struct Latest<T>(Mutex<(Weak<T>, Weak<Answer>)>);

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self(Mutex::new((Weak::new(), Weak::new())))
    }
}

impl<T> Latest<T> {
    /// The answer made from this very `source`, if somebody still reads it; else a new one.
    pub(crate) fn of(
        &self,
        source: &Arc<T>,
        shelf: &Shelf,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Arc<Answer> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A weak pointer keeps its address from being used again.
        let same = std::ptr::eq(latest.0.as_ptr(), Arc::as_ptr(source));
        if same && let Some(answer) = latest.1.upgrade().filter(|answer| answer.is_there()) {
            return answer;
        }
        let answer = shelf.put(make());
        *latest = (Arc::downgrade(source), Arc::downgrade(&answer));
        answer
    }
}

/// `value` as JSON.
pub(crate) fn json(shelf: &Shelf, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => response(vec![shelf.part(text)], JSON),
        Err(error) => {
            tracing::warn!(%error, "an answer cannot be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The parts, one after the other.
pub(crate) fn response(parts: Vec<Part>, content_type: &'static str) -> Response {
    let length = parts.iter().map(Part::len).sum::<usize>();
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    let reading = Reading {
        parts: parts.into(),
        position: 0,
        deadline: Instant::now() + READING_LIMIT,
    };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        let piece = reading.next_piece()?;
        Ok::<_, io::Error>(piece.map(|piece| (piece, reading)))
    });
    (headers, Body::from_stream(pieces)).into_response()
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Own(text) => text.len(),
            Self::Shared(answer) => answer.length,
        }
    }
}

impl From<&'static str> for Part {
    fn from(text: &'static str) -> Self {
        Self::Own(Bytes::from_static(text.as_bytes()))
    }
}

impl From<String> for Part {
    fn from(text: String) -> Self {
        Self::Own(text.into())
    }
}

/// How far one reader is.
struct Reading {
    parts: VecDeque<Part>,
    /// In the first of them.
    position: usize,
    deadline: Instant,
}

impl Reading {
    /// `None` at the end; an error cuts the connection.
    fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            match self.parts.front() {
                None => return Ok(None),
                Some(Part::Own(text)) => {
                    let text = text.clone();
                    self.parts.pop_front();
                    return Ok(Some(text));
                }
                Some(Part::Shared(answer)) if self.position < answer.length => {
                    if Instant::now() > self.deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                    let piece = answer.piece(self.position);
                    let piece = piece.ok_or(io::ErrorKind::ConnectionAborted)?;
                    self.position += piece.len();
                    return Ok(Some(piece));
                }
                Some(Part::Shared(_)) => {
                    self.parts.pop_front();
                    self.position = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(part: Part) -> io::Result<Vec<u8>> {
        let mut reading = Reading {
            parts: VecDeque::from([Part::from("["), part, Part::from("]")]),
            position: 0,
            deadline: Instant::now() + READING_LIMIT,
        };
        let mut text = Vec::new();
        while let Some(piece) = reading.next_piece()? {
            text.extend_from_slice(&piece);
        }
        Ok(text)
    }

    #[test]
    fn a_long_answer_arrives_whole() {
        let shelf = Shelf::default();
        for length in [1, LONG, LONG + 1, 10 * PIECE] {
            let text = read(shelf.part(vec![b'x'; length])).unwrap();
            assert_eq!(text.len(), length + 2);
        }
    }

    #[test]
    fn what_is_held_is_bounded_and_the_oldest_readers_pay() {
        let shelf = Shelf::default();
        let held: Vec<_> = (0..10)
            .map(|_| shelf.put_within(vec![0; 100], 350))
            .collect();
        let there = held.iter().filter(|answer| answer.is_there()).count();
        assert_eq!(there, 3);
        assert!(held[9].is_there() && !held[6].is_there());
        assert!(read(Part::Shared(Arc::clone(&held[0]))).is_err());
        // Alone it may be longer.
        let long = shelf.put_within(vec![0; 1000], 350);
        assert!(long.is_there() && !held[9].is_there());
    }

    #[test]
    fn one_source_makes_one_answer_while_it_is_read() {
        let shelf = Shelf::default();
        let latest = Latest::default();
        let source = Arc::new(1);
        let first = latest.of(&source, &shelf, || vec![1]);
        let second = latest.of(&source, &shelf, || panic!("made twice"));
        assert!(Arc::ptr_eq(&first, &second));
        let other = latest.of(&Arc::new(1), &shelf, || vec![2]);
        assert!(!Arc::ptr_eq(&first, &other));
        first.revoke();
        drop(other);
        assert!(latest.of(&source, &shelf, || vec![3]).is_there());
    }

    #[test]
    fn who_reads_too_long_is_cut_off() {
        let mut reading = Reading {
            parts: VecDeque::from([Shelf::default().part(vec![0; LONG + 1])]),
            position: 0,
            deadline: Instant::now() - Duration::from_millis(1),
        };
        let error = reading.next_piece().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
