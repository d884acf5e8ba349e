//! What a thread does in a block: the phases in order, tasks as it gets them.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Block, PRIVATE_ROWS};
use crate::activation::Shaped;
use crate::attention::{Past, QUERIES, Sight, Weight, attend, join};
use crate::norm::{Norm, activate, norm, rotate};
use crate::pack::{GROUP_ROWS, Packed};
use crate::pool::{Bytes, Element, Halves, PAGE_TOKENS, Pool, Stored, scatter};
use crate::simd::{LANES, MAX_TOGETHER_ROWS, Simd, portable::Portable};
use crate::step::{MAX_RANGES, Plan, Segment, Step, Task, sight_from};
use crate::team::{Team, chunk};
use crate::workspace::{Own, Workspace, first_line};

#[cfg(target_arch = "x86_64")]
use crate::product::amx;
#[cfg(target_arch = "x86_64")]
use crate::simd::{
    avx2::Avx2,
    avx512::{Amx, Avx512Vnni},
};

#[cfg(target_arch = "aarch64")]
use crate::simd::neon::NeonDot;

/// Products on their way into a buffer, `[rows][16]`.
type Outputs = MaybeUninit<[f32; MAX_TOGETHER_ROWS * GROUP_ROWS]>;

/// Everything a call needs, shared by its threads. Buffers are `[rows, width]`.
pub(crate) struct Call<'a> {
    block: &'a Block<'a>,
    step: Step<'a>,
    angles: Option<&'a [f32]>,
    pool: &'a Pool,
    team: &'a Team,
    plan: &'a Plan,
    arrived: &'a [AtomicUsize],
    threads: usize,
    rows: usize,
    hidden: usize,
    x: *const f32,
    y: *mut f32,
    qkv: *mut f32,
    attention: *mut f32,
    middle: *mut f32,
    delta: *mut f32,
    inner: *mut f32,
    /// Results of ranges of the past, `[slots, head_dim]`, and their weights.
    partial: *mut f32,
    weights: *mut Weight,
    shared: *mut crate::activation::Activations,
    own: *mut Own,
    own_count: usize,
}

// SAFETY: threads write disjoint rows or groups within a phase and read them in later ones; `own` is indexed by thread.
unsafe impl Sync for Call<'_> {}

impl<'a> Call<'a> {
    pub(super) fn new(
        block: &'a Block<'a>,
        angles: Option<&'a [f32]>,
        pool: &'a Pool,
        (x, y): (&'a [f32], &'a mut [f32]),
        step: &Step<'a>,
        workspace: &'a mut Workspace,
        threads: usize,
    ) -> Call<'a> {
        workspace.team.reset();
        workspace.own_for(threads);
        for arrived in &mut workspace.arrived {
            *arrived.get_mut() = 0;
        }
        Call {
            block,
            step: *step,
            angles,
            pool,
            team: &workspace.team,
            plan: &workspace.plan,
            arrived: &workspace.arrived,
            threads,
            rows: step.positions.len(),
            hidden: block.hidden(),
            x: x.as_ptr(),
            y: y.as_mut_ptr(),
            qkv: first_line(&mut workspace.qkv),
            attention: first_line(&mut workspace.attention),
            middle: first_line(&mut workspace.middle),
            delta: first_line(&mut workspace.delta),
            inner: first_line(&mut workspace.inner),
            partial: workspace.partial.as_mut_ptr(),
            weights: workspace.weights.as_mut_ptr(),
            shared: &raw mut workspace.activations,
            own: workspace.own.as_mut_ptr(),
            own_count: workspace.own.len(),
        }
    }
}

impl Call<'_> {
    /// What keys and values of a head are worth, `[head_dim]` each, in a pool where that is to be said.
    fn scales(&self, head: usize) -> (Option<&[f32]>, Option<&[f32]>) {
        let width = self.pool.head_dim();
        let range = head * width..(head + 1) * width;
        match (self.pool.element(), &self.block.kv_scales) {
            (Element::Int8, Some(scales)) => (
                Some(&scales.keys[range.clone()]),
                Some(&scales.values[range]),
            ),
            _ => (None, None),
        }
    }
}

/// Takes the tasks of a phase and waits for its end.
macro_rules! phase {
    ($call:ident, $index:literal, $total:expr, $chunk:expr, $task:ident => $body:block) => {{
        let tasks = $call.team.phase($index, $total, $chunk);
        while let Some(range) = tasks.take() {
            for $task in range.clone() $body
            tasks.finished(&range);
        }
        tasks.wait();
    }};
}

/// The rows of a phase, in whole bunches: rows of a bunch share cache lines.
macro_rules! each_row {
    ($call:ident, $index:literal, $bytes:expr, $row:ident => $body:block) => {{
        let bytes: &Shaped = $bytes;
        phase!($call, $index, bytes.bunches(), 1, index => {
            let bunch = bytes.bunch(index);
            for $row in bunch.first..bunch.first + bunch.rows $body
        });
    }};
}

/// # Safety
/// See [`walk`].
pub(super) unsafe fn walk_portable(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<Portable>(call, index) }
}

/// # Safety
/// See [`walk`]; the processor has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn walk_avx2(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<Avx2>(call, index) }
}

/// # Safety
/// See [`walk`]; the processor has these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn walk_avx512(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<Avx512Vnni>(call, index) }
}

/// # Safety
/// See [`walk`]; the processor has these features and tiles.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn walk_amx(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises; tiles are this function's alone.
    unsafe {
        let _tiles = amx::Tiles::configure();
        walk::<Amx>(call, index);
    }
}

/// # Safety
/// See [`walk`]; the processor has these features.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn walk_neon(call: &Call<'_>, index: usize) {
    // SAFETY: as the caller promises.
    unsafe { walk::<NeonDot>(call, index) }
}

/// All phases.
///
/// # Safety
/// The block was checked against the pool, the step planned, and no other thread has the same index.
#[inline(always)]
unsafe fn walk<S: Simd>(call: &Call<'_>, index: usize) {
    let Block {
        qkv,
        output,
        up,
        down,
        ..
    } = call.block;
    assert!(index < call.own_count, "a thread beyond the count");
    // SAFETY: of the whole walk: as the caller promises; each phase writes what no other task of it touches.
    unsafe {
        let own = &mut *call.own.add(index);
        let private = call.rows <= S::BUNCH_ROWS.min(PRIVATE_ROWS);
        let ready = |own: &mut Own, matrix: &Packed<'_>| {
            let activations = if private {
                &mut own.activations
            } else {
                &mut *call.shared
            };
            activations.shape::<S>(call.rows, matrix.columns())
        };

        let bytes = ready(own, qkv);
        if private {
            for row in 0..call.rows {
                normed::<S>(call, own, &call.block.input_norm, call.x, &bytes, row, qkv);
            }
        } else {
            each_row!(call, 0, &bytes, row => {
                normed::<S>(call, own, &call.block.input_norm, call.x, &bytes, row, qkv);
            });
        }
        phase!(call, 1, qkv.groups(), chunk(qkv.groups(), call.threads), group => {
            multiply::<S>(qkv, group, &bytes, call.block.qkv_bias, None, call.qkv, qkv.rows());
        });

        let alone = call.plan.segments.iter().all(|segment| segment.rows == 1)
            && call.block.heads / call.pool.kv_heads() <= QUERIES;
        if !alone {
            // Neighbouring tokens share the cache lines of their keys: a page is one thread's where there are several.
            let rows = if call.rows >= 2 * PAGE_TOKENS {
                PAGE_TOKENS
            } else {
                4
            };
            phase!(call, 2, call.rows, rows, row => {
                match call.pool.element() {
                    Element::F16 => store_row::<S, Halves>(call, row),
                    Element::Int8 => store_row::<S, Bytes>(call, row),
                }
            });
        }
        phase!(call, 3, call.plan.tasks.len(), 1, task => {
            let task = &call.plan.tasks[task];
            match call.pool.element() {
                Element::F16 => attend_task::<S, Halves>(call, own, task, alone),
                Element::Int8 => attend_task::<S, Bytes>(call, own, task, alone),
            }
        });

        let bytes = ready(own, output);
        if private {
            for row in 0..call.rows {
                plain::<S>(call.attention, output, &bytes, row);
            }
        } else {
            each_row!(call, 4, &bytes, row => { plain::<S>(call.attention, output, &bytes, row); });
        }
        // With a norm of its own, what attention adds is kept apart until all of its row is there.
        let (add, to) = match call.block.post_attention_norm {
            None => (Some(call.x), call.middle),
            Some(_) => (None, call.delta),
        };
        phase!(call, 5, output.groups(), chunk(output.groups(), call.threads), group => {
            multiply::<S>(output, group, &bytes, call.block.output_bias, add, to, call.hidden);
        });

        let bytes = ready(own, up);
        let mut middle = call.middle;
        if private {
            if call.block.post_attention_norm.is_some() {
                middle = own.middle.as_mut_ptr();
            }
            for row in 0..call.rows {
                joined::<S>(call, own, middle, row);
                normed::<S>(call, own, &call.block.ffn_norm, middle, &bytes, row, up);
            }
        } else {
            each_row!(call, 6, &bytes, row => {
                joined::<S>(call, own, middle, row);
                normed::<S>(call, own, &call.block.ffn_norm, middle, &bytes, row, up);
            });
        }
        let width = down.columns();
        if call.block.gated {
            phase!(call, 7, up.groups() / 2, chunk(up.groups() / 2, call.threads), pair => {
                gate::<S>(call, pair, &bytes);
            });
        } else {
            phase!(call, 7, up.groups(), chunk(up.groups(), call.threads), group => {
                multiply::<S>(up, group, &bytes, call.block.up_bias, None, call.inner, width);
                for row in 0..call.rows {
                    let at = call.inner.add(row * width + group * GROUP_ROWS);
                    S::store(activate::<S>(call.block.activation, S::load(at)), at);
                }
            });
        }

        let bytes = ready(own, down);
        if private {
            for row in 0..call.rows {
                plain::<S>(call.inner, down, &bytes, row);
            }
        } else {
            each_row!(call, 8, &bytes, row => { plain::<S>(call.inner, down, &bytes, row); });
        }
        let (add, to) = match call.block.post_ffn_norm {
            None => (Some(middle.cast_const()), call.y),
            Some(_) => (None, call.delta),
        };
        phase!(call, 9, down.groups(), chunk(down.groups(), call.threads), group => {
            multiply::<S>(down, group, &bytes, call.block.down_bias, add, to, call.hidden);
        });
        if let Some(post) = &call.block.post_ffn_norm {
            phase!(call, 10, call.rows, 4, row => {
                let at = row * call.hidden;
                norm::<S>(post, call.delta.add(at), own.row.as_mut_ptr());
                add_row::<S>(middle.add(at), own.row.as_ptr(), call.y.add(at), call.hidden);
            });
        }
    }
}

/// The norm of a row, as bytes.
#[inline(always)]
unsafe fn normed<S: Simd>(
    call: &Call<'_>,
    own: &mut Own,
    with: &Norm<'_>,
    from: *const f32,
    bytes: &Shaped,
    row: usize,
    matrix: &Packed<'_>,
) {
    // SAFETY: rows of the stream.
    unsafe {
        norm::<S>(with, from.add(row * call.hidden), own.row.as_mut_ptr());
        bytes.quantize_row::<S>(row, &own.row[..call.hidden], matrix.format().fix());
    }
}

/// A row as it is, as bytes.
#[inline(always)]
unsafe fn plain<S: Simd>(from: *const f32, matrix: &Packed<'_>, bytes: &Shaped, row: usize) {
    // SAFETY: rows as wide as the matrix.
    unsafe {
        let x = std::slice::from_raw_parts(from.add(row * matrix.columns()), matrix.columns());
        bytes.quantize_row::<S>(row, x, matrix.format().fix());
    }
}

/// The stream after attention, where attention's part has a norm of its own.
#[inline(always)]
unsafe fn joined<S: Simd>(call: &Call<'_>, own: &mut Own, middle: *mut f32, row: usize) {
    if let Some(post) = &call.block.post_attention_norm {
        let at = row * call.hidden;
        // SAFETY: rows of the stream.
        unsafe {
            norm::<S>(post, call.delta.add(at), own.row.as_mut_ptr());
            add_row::<S>(
                call.x.add(at),
                own.row.as_ptr(),
                middle.add(at),
                call.hidden,
            );
        }
    }
}

#[inline(always)]
unsafe fn add_row<S: Simd>(a: *const f32, b: *const f32, to: *mut f32, width: usize) {
    for i in (0..width).step_by(LANES) {
        // SAFETY: rows of that width.
        unsafe { S::store(S::add(S::load(a.add(i)), S::load(b.add(i))), to.add(i)) };
    }
}

/// `to = [add +] activations · groupᵀ [+ bias]`, for all rows and the 16 outputs of a group; rows are `stride` apart.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd>(
    matrix: &Packed<'_>,
    group: usize,
    bytes: &Shaped,
    bias: Option<&[f32]>,
    add: Option<*const f32>,
    to: *mut f32,
    stride: usize,
) {
    let mut out = Outputs::uninit();
    let out = out.as_mut_ptr().cast::<f32>();
    let at = group * GROUP_ROWS;
    for index in (0..bytes.bunches()).step_by(S::TOGETHER) {
        // SAFETY: a whole group, and rows that hold 16 outputs from `at` on.
        unsafe {
            for (index, row) in products::<S>(matrix, group, bytes, index, out).enumerate() {
                let mut sum = S::load(out.add(index * GROUP_ROWS));
                if let Some(bias) = bias {
                    sum = S::add(sum, S::load(bias.as_ptr().add(at)));
                }
                let place = row * stride + at;
                if let Some(add) = add {
                    sum = S::add(sum, S::load(add.add(place)));
                }
                S::store(sum, to.add(place));
            }
        }
    }
}

/// Products of a group and the bunches from `first` on that go together, into `out`; returns their rows.
#[inline(always)]
unsafe fn products<S: Simd>(
    matrix: &Packed<'_>,
    group: usize,
    bytes: &Shaped,
    first: usize,
    out: *mut f32,
) -> Range<usize> {
    let end = bytes.bunches().min(first + S::TOGETHER);
    // SAFETY: a whole group of the matrix's format; `out` is as long as the most rows that go together.
    unsafe {
        S::products(
            matrix.format(),
            matrix.group(group).as_ptr(),
            matrix.tiles(),
            (bytes, first..end),
            out,
        );
    }
    let last = bytes.bunch(end - 1);
    bytes.bunch(first).first..last.first + last.rows
}

/// `act(gate)·up` for 16 inner features of all rows.
#[inline(always)]
unsafe fn gate<S: Simd>(call: &Call<'_>, pair: usize, bytes: &Shaped) {
    let Block {
        up,
        up_bias,
        activation,
        ..
    } = call.block;
    let width = call.block.down.columns();
    let (mut gates, mut factors) = (Outputs::uninit(), Outputs::uninit());
    let gates = gates.as_mut_ptr().cast::<f32>();
    let factors = factors.as_mut_ptr().cast::<f32>();
    for index in (0..bytes.bunches()).step_by(S::TOGETHER) {
        // SAFETY: both groups of the pair, and rows of the inner width.
        unsafe {
            let rows = products::<S>(up, 2 * pair, bytes, index, gates);
            products::<S>(up, 2 * pair + 1, bytes, index, factors);
            for (index, row) in rows.enumerate() {
                let mut gate = S::load(gates.add(index * GROUP_ROWS));
                let mut factor = S::load(factors.add(index * GROUP_ROWS));
                if let Some(bias) = up_bias {
                    let bias = bias.as_ptr().add(2 * pair * GROUP_ROWS);
                    gate = S::add(gate, S::load(bias));
                    factor = S::add(factor, S::load(bias.add(GROUP_ROWS)));
                }
                let value = S::mul(activate::<S>(*activation, gate), factor);
                S::store(value, call.inner.add(row * width + pair * GROUP_ROWS));
            }
        }
    }
}

/// Keys and values of a row into their pages.
#[inline(always)]
unsafe fn store_row<S: Simd, E: Stored>(call: &Call<'_>, row: usize) {
    // SAFETY: segments hold all rows.
    let segment = call
        .plan
        .segments
        .partition_point(|segment| segment.row <= row)
        - 1;
    for head in 0..call.pool.kv_heads() {
        unsafe { store_head::<S, E>(call, &call.plan.segments[segment], row, head) };
    }
}

#[inline(always)]
unsafe fn store_head<S: Simd, E: Stored>(
    call: &Call<'_>,
    segment: &Segment,
    row: usize,
    head: usize,
) {
    let width = call.pool.head_dim();
    let position = segment.position + row - segment.row;
    // SAFETY: pages were checked up to the last position; keys and values of this row and head are this task's.
    unsafe {
        let key = call
            .qkv
            .add(row * call.block.qkv.rows() + (call.block.heads + head) * width);
        let value = key.add(call.pool.kv_heads() * width);
        if let Some(with) = &call.block.k_norm {
            norm::<S>(with, key, key);
        }
        if let Some(angles) = call.angles {
            rotate(key, &angles[row * width..(row + 1) * width]);
        }
        let page = call.step.pages[segment.sequence * call.step.table + position / PAGE_TOKENS];
        let (keys, values) = call.pool.head::<E>(page as usize, call.block.layer, head);
        let (key_scales, value_scales) = call.scales(head);
        let token = position % PAGE_TOKENS;
        for feature in (0..width).step_by(LANES) {
            let scales =
                |all: Option<&[f32]>| all.map_or(std::ptr::null(), |all| all[feature..].as_ptr());
            E::store::<S>(
                S::load(value.add(feature)),
                scales(value_scales),
                values.add(token * width + feature),
            );
            let column = keys.add(feature * PAGE_TOKENS + token);
            let key = S::load(key.add(feature));
            scatter::<S, E>(key, scales(key_scales), column, PAGE_TOKENS);
        }
    }
}

/// Some queries over some of the past; whoever finishes the last range of a query joins them.
#[inline(always)]
unsafe fn attend_task<S: Simd, E: Stored>(
    call: &Call<'_>,
    own: &mut Own,
    task: &Task,
    alone: bool,
) {
    let segment = &call.plan.segments[task.segment];
    let width = call.pool.head_dim();
    let group = call.block.heads / call.pool.kv_heads();
    let mut sight = [Sight::default(); QUERIES];
    let mut out = [std::ptr::null_mut(); QUERIES];
    let mut weights = [Weight::default(); QUERIES];
    // SAFETY: tasks were planned for these rows; slots are given to one task each.
    unsafe {
        if alone && task.range + 1 == task.ranges {
            store_head::<S, E>(call, segment, segment.row, task.head);
        }
        let (key_scales, value_scales) = call.scales(task.head);
        for i in 0..task.count {
            let (row, member) = ((task.first + i) / group, (task.first + i) % group);
            let position = segment.position + row;
            sight[i] = Sight {
                from: sight_from(call.block.window, position),
                position,
            };
            let head = task.head * group + member;
            query::<S>(
                call,
                own,
                (segment.row + row, head),
                (i, task.count),
                key_scales,
            );
            out[i] = if task.ranges == 1 {
                call.attention
                    .add(((segment.row + row) * call.block.heads + head) * width)
            } else {
                call.partial.add((task.slot + i) * width)
            };
        }
        let first = segment.sequence * call.step.table;
        let past = Past {
            pool: call.pool,
            pages: &call.step.pages[first..first + call.step.table],
            layer: call.block.layer,
            head: task.head,
            begin: task.begin,
            end: task.end,
            value_scales,
        };
        let (queries, scores) = (own.queries.as_ptr(), own.scores.as_mut_ptr());
        attend::<S, E>(
            &past,
            queries,
            &sight[..task.count],
            scores,
            &out[..task.count],
            &mut weights[..task.count],
        );
        if task.ranges > 1 {
            for (i, weight) in weights[..task.count].iter().enumerate() {
                call.weights.add(task.slot + i).write(*weight);
            }
            let arrived = call.arrived[task.counter].fetch_add(1, Ordering::AcqRel) + 1;
            if arrived == task.ranges {
                join_ranges::<S>(call, segment, task);
            }
        }
    }
}

/// A query head, normed, rotated and scaled, with the scales of the keys it meets, as column `i` of `[head_dim][count]`.
#[inline(always)]
unsafe fn query<S: Simd>(
    call: &Call<'_>,
    own: &mut Own,
    (row, head): (usize, usize),
    (i, count): (usize, usize),
    key_scales: Option<&[f32]>,
) {
    let width = call.pool.head_dim();
    // SAFETY: a head of the row; another task may read the same head, so it is not changed in place.
    unsafe {
        let from = call.qkv.add(row * call.block.qkv.rows() + head * width);
        let head = own.row.as_mut_ptr();
        match &call.block.q_norm {
            Some(with) => norm::<S>(with, from, head),
            None => std::ptr::copy_nonoverlapping(from, head, width),
        }
        if let Some(angles) = call.angles {
            rotate(head, &angles[row * width..(row + 1) * width]);
        }
        for feature in 0..width {
            let scale = key_scales.map_or(1.0, |scales| scales[feature]);
            own.queries[feature * count + i] = *head.add(feature) * call.block.scale * scale;
        }
    }
}

#[inline(always)]
unsafe fn join_ranges<S: Simd>(call: &Call<'_>, segment: &Segment, task: &Task) {
    let width = call.pool.head_dim();
    let group = call.block.heads / call.pool.kv_heads();
    // Slots of the ranges follow each other.
    let first = task.slot - task.range * task.count;
    for i in 0..task.count {
        let mut parts = [(std::ptr::null(), Weight::default()); MAX_RANGES];
        // SAFETY: all ranges have written their slots before they were counted.
        unsafe {
            for (range, part) in parts[..task.ranges].iter_mut().enumerate() {
                let slot = first + range * task.count + i;
                *part = (
                    call.partial.add(slot * width).cast_const(),
                    *call.weights.add(slot),
                );
            }
            let head = task.head * group + task.first + i;
            let out = call
                .attention
                .add((segment.row * call.block.heads + head) * width);
            join::<S>(&parts[..task.ranges], width, out);
        }
    }
}
