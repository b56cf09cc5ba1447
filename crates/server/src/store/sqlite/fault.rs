//! From SQLite's errors to the store's: which are transient, which mean damage.

use rusqlite::{Error, ErrorCode};

use crate::store::StoreError;

/// Translates an error met while doing something that was then rolled back.
pub(super) fn fault(during: &'static str) -> impl FnOnce(Error) -> StoreError {
    move |error| {
        let code = error.sqlite_error_code();
        match (&error, code) {
            (_, Some(ErrorCode::DiskFull)) => StoreError::Full,
            (_, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            | (
                Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::Utf8Error(..)
                | Error::QueryReturnedNoRows,
                _,
            ) => corrupt(format!("{error} while {during}")),
            (
                _,
                Some(
                    ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::CannotOpen
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::FileLockingProtocolFailed,
                ),
            ) => StoreError::Transient { during, in_doubt: false, source: Box::new(error) },
            _ => StoreError::Permanent { during, in_doubt: false, source: Box::new(error) },
        }
    }
}

/// The error for damage found.
pub(super) fn corrupt(detail: String) -> StoreError {
    StoreError::Corrupt { detail }
}
