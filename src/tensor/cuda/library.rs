//! Matrix products as libraries take them: column-major, each matrix with a leading dimension.

use super::driver::Address;
use super::stored::Stored;

/// A matrix in memory, column after column: element `(row, column)` is the one at `row + column * leading`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ColumnMajor {
    /// The type of its elements.
    pub stored: Stored,
    /// Rows, without gaps between them.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one column to the next.
    pub leading: usize,
}

impl ColumnMajor {
    /// A row-major matrix `[rows, width]` read column by column is its transpose.
    fn transpose_of(stored: Stored, rows: usize, width: usize) -> Self {
        Self { stored, rows: width, columns: rows, leading: width }
    }
}

/// The extents of `out = aᵀ · b`, with sums in f32 whatever the elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductShape {
    /// Read transposed.
    pub a: ColumnMajor,
    /// Read as it lies.
    pub b: ColumnMajor,
    /// Written as it lies; what it held does not count.
    pub out: ColumnMajor,
}

impl ProductShape {
    /// `[rows, inner] · [width, inner]ᵀ = [rows, width]`, all row-major. Column-major this is
    /// `outᵀ = weight · xᵀ`, where the weight lies transposed and the two others as they are needed.
    pub(super) fn of(
        (x, weight, out): (Stored, Stored, Stored),
        rows: usize,
        inner: usize,
        width: usize,
    ) -> Self {
        Self {
            a: ColumnMajor::transpose_of(weight, width, inner),
            b: ColumnMajor::transpose_of(x, rows, inner),
            out: ColumnMajor::transpose_of(out, rows, width),
        }
    }
}

/// A product for a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LibraryProduct {
    /// Its extents.
    pub shape: ProductShape,
    /// Where `a` lies.
    pub a: Address,
    /// Where `b` lies.
    pub b: Address,
    /// Where the result goes.
    pub out: Address,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The element `(row, column)`.
    fn at(matrix: &ColumnMajor, values: &[f32], row: usize, column: usize) -> f32 {
        assert!(row < matrix.rows && column < matrix.columns);
        values[row + column * matrix.leading]
    }

    #[test]
    fn read_column_by_column_it_is_the_product_of_rows() {
        let (rows, inner, width) = (3, 5, 2);
        let x: Vec<f32> = (0..rows * inner).map(|i| i as f32 - 4.0).collect();
        let weight: Vec<f32> = (0..width * inner).map(|i| (i * i % 7) as f32).collect();
        let ProductShape { a, b, out } =
            ProductShape::of((Stored::F32, Stored::F32, Stored::F32), rows, inner, width);
        assert_eq!((a.rows, b.rows), (inner, inner), "what is summed over");
        assert_eq!((out.rows, out.columns), (a.columns, b.columns));
        let mut result = vec![f32::NAN; rows * width];
        for column in 0..out.columns {
            for row in 0..out.rows {
                result[row + column * out.leading] =
                    (0..inner).map(|k| at(&a, &weight, k, row) * at(&b, &x, k, column)).sum();
            }
        }
        let due = x.chunks(inner).flat_map(|x| {
            weight.chunks(inner).map(|w| x.iter().zip(w).map(|(x, w)| x * w).sum()).collect::<Vec<f32>>()
        });
        assert_eq!(result, due.collect::<Vec<_>>());
    }
}
