//! The columns of products, cut into units that threads share.

use std::ops::Range;

use super::Product;
use crate::tensor::Weight;
use crate::tensor::cpu::memory::CpuMatrix;

/// The units of some products whose matrices have the same shape, and so have their parts. A unit has columns of one part.
pub(in super::super) struct Units {
    /// Columns of a unit; the last one of a part may have fewer.
    columns: usize,
    /// Units of a product.
    each: usize,
    /// Products.
    products: usize,
}

/// Units of one part that follow one another.
pub(in super::super) struct Piece<'a> {
    /// The place of the product among all.
    pub(in super::super) index: usize,
    /// The product.
    pub(in super::super) product: Product<'a>,
    /// The part of its weight.
    pub(in super::super) part: &'a Weight,
    /// Columns of the part.
    pub(in super::super) columns: Range<usize>,
    /// The output column of the first.
    pub(in super::super) out_column: usize,
}

impl Units {
    /// Cuts products with matrices like `shape` into units of so many columns.
    pub(in super::super) fn new(shape: &CpuMatrix, products: usize, columns: usize) -> Self {
        let each = shape.parts.iter().map(|part| part.shape[0].div_ceil(columns)).sum();
        Self { columns, each, products }
    }

    /// Units of all products.
    pub(in super::super) fn count(&self) -> usize {
        self.products * self.each
    }

    /// Calls `work` with what some units are of, piece by piece, but for products that have no rows.
    pub(in super::super) fn pieces<'a>(
        &self,
        units: Range<usize>,
        product: &impl Fn(usize) -> Product<'a>,
        mut work: impl FnMut(Piece<'a>),
    ) {
        let mut unit = units.start;
        while unit < units.end {
            let (index, first) = (unit / self.each, unit % self.each);
            let last = self.each.min(first + units.end - unit);
            let product = product(index);
            if product.rows.len() > 0 {
                self.pieces_of(index, product, first..last, &mut work);
            }
            unit += last - first;
        }
    }

    /// The same for some units of one product, counted over the parts of its weight.
    fn pieces_of<'a>(
        &self,
        index: usize,
        product: Product<'a>,
        units: Range<usize>,
        work: &mut impl FnMut(Piece<'a>),
    ) {
        let (mut first_unit, mut first_column) = (0, 0);
        for part in product.weight.parts.iter() {
            let width = part.shape[0];
            let part_units = width.div_ceil(self.columns);
            let begin = units.start.max(first_unit);
            let end = units.end.min(first_unit + part_units);
            if begin < end {
                let begin = (begin - first_unit) * self.columns;
                let columns = begin..width.min((end - first_unit) * self.columns);
                work(Piece { index, product, part, columns, out_column: first_column + begin });
            }
            first_unit += part_units;
            first_column += width;
        }
    }
}
