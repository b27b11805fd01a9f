//! Which rows of a batch of windows an operation works on.

use super::DeviceError;

/// The rows of one window of a signal, counted from the window's own beginning.
///
/// A window that only wants its last rows keeps no more of the earlier ones than those depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowRows {
    /// The first row that buffers hold.
    pub origin: usize,
    /// The first row that is computed; at least `origin`.
    pub first: usize,
    /// One past the last row; at least `first`.
    pub end: usize,
}

/// The windows of a batch. A buffer holds rows `origin..end` of each, one window after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows(Vec<WindowRows>);

impl Windows {
    /// A batch of windows; fails if a window's rows are out of order.
    pub fn new(windows: Vec<WindowRows>) -> Result<Self, DeviceError> {
        match windows.iter().find(|rows| rows.origin > rows.first || rows.first > rows.end) {
            Some(rows) => Err(DeviceError::Batch(format!("rows of a window out of order: {rows:?}"))),
            None => Ok(Self(windows)),
        }
    }

    /// Rows that buffers hold, over all windows.
    pub fn stored_rows(&self) -> usize {
        self.0.iter().map(|rows| rows.end - rows.origin).sum()
    }

    /// Rows that are computed, over all windows.
    pub fn computed_rows(&self) -> usize {
        self.0.iter().map(|rows| rows.end - rows.first).sum()
    }

    /// Each window with the place of its `origin` in the buffer, in rows.
    pub fn iter(&self) -> impl Iterator<Item = (usize, WindowRows)> {
        self.0.iter().scan(0, |place, rows| {
            let own = *place;
            *place += rows.end - rows.origin;
            Some((own, *rows))
        })
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no window.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_one_after_the_other() {
        let windows = Windows::new(vec![
            WindowRows { origin: 2, first: 5, end: 10 },
            WindowRows { origin: 0, first: 0, end: 3 },
        ])
        .unwrap();
        assert_eq!(windows.iter().map(|(place, _)| place).collect::<Vec<_>>(), [0, 8]);
        assert_eq!((windows.stored_rows(), windows.computed_rows()), (11, 8));
    }

    #[test]
    fn rows_out_of_order_are_refused() {
        let error = Windows::new(vec![WindowRows { origin: 2, first: 1, end: 10 }]).unwrap_err();
        assert_eq!(error.reason(), "invalid_batch");
    }
}
