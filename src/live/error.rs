//! What a request is answered that cannot be done.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::{Error, with_causes};

/// A failure of a request.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) kind: &'static str,
    message: String,
    /// Beside the kind and the message.
    pub(super) details: Option<Value>,
}

pub(super) type Outcome<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), details: None }
    }

    pub(super) fn with(self, details: Value) -> Self {
        Self { details: Some(details), ..self }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn no_entry() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_entry", "there is no such entry")
    }

    pub(super) fn changed() -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "changed", "the entry has changed since it was looked at")
    }

    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests are at work; try again")
    }

    pub(super) fn closed() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "closed", "the store is closed")
    }

    pub(super) fn forbidden(kind: &'static str, message: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, kind, message)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::InvalidKey(_)
            | Error::InvalidId(_)
            | Error::InvalidLease(_)
            | Error::InvalidName(_)
            | Error::OverlappingPrefixes
            | Error::InvalidCost { .. }
            | Error::InvalidEntry { .. }
            | Error::TimeZone { .. }
            | Error::Setting { .. } => StatusCode::BAD_REQUEST,
            Error::TooLarge { .. } | Error::TooManyLeases { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::ReadOnly { .. }
            | Error::Closed { .. }
            | Error::Removed { .. }
            | Error::DiskFull { .. }
            | Error::SnapshotTooLarge { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.kind(), with_causes(&error))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let mut error = json!({"kind": self.kind, "message": self.message});
        if let (Some(Value::Object(details)), Some(error)) = (self.details, error.as_object_mut()) {
            error.extend(details);
        }
        (self.status, Json(json!({"error": error}))).into_response()
    }
}
