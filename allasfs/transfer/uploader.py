"""Uploader: a draft becomes an object, by one PUT or by parallel segments and a manifest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future

from allasfs.config import Config
from allasfs.deadline import current
from allasfs.errors import Exists, FsError, NotFound, Stale, Unavailable
from allasfs.store import large, marks
from allasfs.store.api import ObjectHead, ObjectInfo, Segment, Store
from allasfs.transfer.blocks import Memory
from allasfs.transfer.draft import Draft, Fetch, Guard
from allasfs.transfer.leftovers import Leftovers, Old
from allasfs.transfer.parts import Task
from allasfs.transfer.sending import Sending
from allasfs.transfer.spoolfile import SpoolFile

log = logging.getLogger(__name__)


def nothing(start: int, stop: int) -> bytes:
    """Fetch for a draft whose stored version is not there."""
    raise Stale("", f"nothing is stored of bytes {start} to {stop}, or not any more")


class Uploader:
    """Makes drafts and sends them to the store. The caller guards a draft against changes."""

    def __init__(
        self,
        store: Store,
        pool: Executor,
        config: Config,
        *,
        memory: Memory | None = None,
        readers: Executor | None = None,
    ) -> None:
        """See ``Sending``."""
        self._store = store
        self.sending = Sending(store, pool, config, memory=memory, readers=readers)

    def draft(
        self,
        file: SpoolFile,
        bucket: str,
        key: str,
        base: ObjectInfo | None = None,
        guard: Guard | None = None,
    ) -> Draft:
        """Return the next version of an object, which has the content of ``base`` so far.

        ``guard`` is the lock that its callers hold.
        """
        return Draft(self.sending, file, bucket, key, base, guard or threading.RLock())

    def upload(
        self,
        draft: Draft,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        fetch: Fetch = nothing,
        exclusive: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> ObjectInfo:
        """Store the draft under its name and return the version that it makes.

        ``fetch`` gives bytes of the stored version. The segments of a large object that it replaces
        are removed after the new version stands. With ``exclusive`` nothing is replaced: raises
        Exists. ``check`` may raise before the new version is published.
        """
        metadata = marks.without(metadata)
        draft.describe(content_type, metadata, exclusive=exclusive)
        draft.settle()
        found = large.look(self._store, draft.bucket, draft.base)
        base = draft.base
        if base is not None and base.kind in large.LARGE and not found.is_of(base):
            fetch = nothing
        if draft.is_large:
            return self._segmented(draft, found, content_type, metadata, fetch, exclusive, check)
        draft.fill(0, draft.size, fetch)
        check()
        leftovers = self._leftovers(draft)
        md5 = draft.file.md5()
        replaced = leftovers.before(draft.bucket, found, md5)
        tried = draft.trying(md5)
        try:
            info = self._store.put(
                draft.bucket,
                draft.key,
                draft.file.part(0, draft.size, draft.file.spool.moved),
                md5=md5,
                content_type=content_type,
                metadata=metadata,
                exclusive=exclusive,
            )
        except FsError as exc:
            leftovers.keep(replaced)
            if isinstance(exc, Exists):
                draft.refused(tried)
            raise
        self._remove_old(draft, info, replaced, [])
        draft.forget_sent()
        draft.stored(info, [])
        return info

    def _segmented(
        self,
        draft: Draft,
        found: large.Found,
        content_type: str,
        metadata: Mapping[str, str],
        fetch: Fetch,
        exclusive: bool,
        check: Callable[[], None],
    ) -> ObjectInfo:
        draft.know_base(found)
        plan = draft.plan()
        if self._keeps_what_is_gone(draft, found, plan):
            if draft.absent():
                why = "replaced by another client meanwhile"
                raise Stale(f"{draft.bucket}/{draft.key}", why)
            # All of it is here.
            draft.forget_base()
            plan = draft.plan()
        old = [] if found.sharer else list(found.segments)
        leftovers = self._leftovers(draft)
        replaced: Old | None = None
        try:
            draft.closing(content_type, metadata, old, exclusive=exclusive)
            segments = self._send_all(draft, plan, found, fetch)
            draft.sweep(segments)
            check()
            replaced = leftovers.before(draft.bucket, found)
            info = self._publish(draft, segments, found, content_type, metadata, exclusive)
        except FsError:
            leftovers.keep(replaced)
            draft.failed()
            raise
        draft.published(segments)
        self._remove_old(draft, info, replaced, segments)
        draft.stored(info, segments)
        return info

    @staticmethod
    def _keeps_what_is_gone(draft: Draft, found: large.Found, plan: list[Task]) -> bool:
        """Whether segments shall stay of a version that is not there any more."""
        base = draft.base
        if base is None or base.kind not in large.LARGE or found.is_over(base):
            return False
        return any(task.part is not None and not task.part.is_own for task in plan)

    def _send_all(
        self, draft: Draft, plan: list[Task], found: large.Found, fetch: Fetch
    ) -> list[Segment]:
        """Send as planned; what was to be copied and is gone is sent, if all of it is here."""
        try:
            return self._send(draft, plan, found, fetch)
        except Stale:
            if draft.absent():
                raise
            draft.forget_base()
            return self._send(draft, draft.plan(), found, fetch)

    def _send(
        self, draft: Draft, plan: list[Task], found: large.Found, fetch: Fetch
    ) -> list[Segment]:
        """Send and copy what the plan says; return the new version's segments."""
        jobs: list[Segment | Future[Segment]] = []
        deadline = current(self.sending.timeout_s)
        must_copy = bool(found.sharer) or not self.sending.is_static
        try:
            for task in plan:
                part = task.part
                if part is None:
                    draft.fill(task.start, task.stop, fetch)
                    jobs.append(draft.send(task.start, task.stop, deadline))
                elif part.segment is None or part.is_own or part.copied is not None:
                    jobs.append(part.copied or self._of(part.segment))
                elif must_copy or part.segment.container == draft.bucket:
                    jobs.append(draft.copy(part))
                else:
                    jobs.append(part.segment)
        finally:
            draft.settle()
        return [job if isinstance(job, Segment) else job.result() for job in jobs]

    @staticmethod
    def _of(segment: Segment | None) -> Segment:
        if segment is None:
            raise Stale("", "a part of the file has no segment")
        return segment

    def _publish(
        self,
        draft: Draft,
        segments: list[Segment],
        found: large.Found,
        content_type: str,
        metadata: Mapping[str, str],
        exclusive: bool,
    ) -> ObjectInfo:
        bucket, key = draft.bucket, draft.key
        if exclusive and self._store.capabilities().conditional_put:
            self._must_be_free(bucket, key)
        try:
            return large.publish(
                self._store,
                bucket,
                key,
                draft.begin(),
                segments,
                choice=self.sending.config.large_objects,
                content_type=content_type,
                metadata=dict(metadata),
            )
        except Unavailable as exc:
            # The answer is lost, perhaps not the manifest.
            head = self._published(draft, segments, exc)
            # Over the segments of the version before alone, only its metadata tell it from that.
            is_new = not set(segments) <= set(found.segments)
            if head is None or not (is_new or metadata.items() <= head.metadata.items()):
                raise
            return head.info

    def _must_be_free(self, bucket: str, key: str) -> None:
        try:
            self._store.head(bucket, key)
        except NotFound:
            return
        raise Exists(f"{bucket}/{key}", "another client made it meanwhile")

    def _published(
        self, draft: Draft, segments: list[Segment], error: Unavailable
    ) -> ObjectHead | None:
        """Return the version whose manifest is over these segments, None when there is none.

        Raises ``error`` when the store does not tell: then the segments stay.
        """
        try:
            return large.published(self._store, draft.bucket, draft.key, segments)
        except FsError as exc:
            log.warning("segments of %s/%s may be left over: %s", draft.bucket, draft.key, exc)
            draft.is_unsure = True
            raise error from exc

    def _leftovers(self, draft: Draft) -> Leftovers:
        return Leftovers(self._store, draft.file.spool)

    def _remove_old(
        self, draft: Draft, info: ObjectInfo, old: Old | None, used: list[Segment]
    ) -> None:
        """Remove the segments of the replaced version that the new one does not use."""
        if old is None:
            return
        leftovers = self._leftovers(draft)
        unused = [segment for segment in old.segments if segment not in used]
        if not unused and old.aside is None:
            return
        try:
            is_there = large.is_at(self._store, draft.bucket, info)
        except FsError as exc:
            log.warning("segments of a replaced object are left over: %s", exc)
            leftovers.remember(old, unused)
            return
        if not is_there:
            # Another client was as fast, and its version may use some of them.
            log.warning(
                "%s/%s was replaced by another client at the same time: segments are left over",
                draft.bucket,
                info.key,
            )
            leftovers.keep(old)
            return
        leftovers.remove(old, unused)
