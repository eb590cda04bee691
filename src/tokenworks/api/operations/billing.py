"""Bill runs, failed jobs, the phone bill's charge files."""

from fastapi import APIRouter, Response

from tokenworks.billing import LAYOUT
from tokenworks.charging import JobName
from tokenworks.web.bodies import RawBody, StrictBody
from tokenworks.web.content import instant, json_response
from tokenworks.web.principals import ALL_STAFF, CurrentPrincipal, allow, as_uuid, audit
from tokenworks.web.services import RequestServices

router = APIRouter(prefix="/api/operations", tags=["operations"])


@router.post("/bill-runs", summary="Bill all subscribers whose billing period has ended", **allow("finance"))
def bill_run(services: RequestServices, principal: CurrentPrincipal, dry_run: bool = False) -> Response:
    if dry_run:
        count, amount = services.bills.due()
        return json_response({"bills": count, "amount_nano": amount, "dry_run": True})
    made = services.bills.run_by_hand()
    audit(
        services, principal, "bill.run", "bills", None, {"bills": made.bills, "amount_nano": made.amount_nano}
    )
    return json_response(
        {"bills": made.bills, "lines": made.lines, "amount_nano": made.amount_nano, "dry_run": False}
    )


@router.get("/failed-jobs", summary="Failed jobs: cycles, credits, refunds and bills", **allow(*ALL_STAFF))
def failed_jobs(services: RequestServices) -> Response:
    rows = [
        {
            "job": failed.job,
            "ref": str(failed.ref),
            "state": failed.state,
            "attempts": failed.attempts,
            "reason": failed.reason,
            "first_failed_at": instant(failed.first_failed_at),
            "failed_at": instant(failed.failed_at),
            "next_at": instant(failed.next_at) if failed.state == "retrying" else None,
        }
        for failed in services.failed_jobs.all()
    ]
    return json_response(rows, headers={"X-Total-Count": str(len(rows))})


class JobRelease(StrictBody):
    """The job to try again, of the product, order, refund or subscriber in the path."""

    job: JobName


@router.post("/failed-jobs/{id}/release", summary="Try a failed job again", **allow("operator", "finance"))
def release_job(
    body: JobRelease, services: RequestServices, principal: CurrentPrincipal, id: str
) -> Response:
    about = as_uuid(id, "job")
    with services.transaction():
        services.failed_jobs.release(body.job, about)
        audit(services, principal, "job.release", about, {"job": body.job}, {"state": "released"})
    return json_response({"job": body.job, "ref": str(about), "state": "released"})


@router.get("/charge-files", summary="Phone-bill charge files, newest first", **allow("finance", "auditor"))
def charge_files(services: RequestServices) -> Response:
    found = [
        {name: instant(value) if name.endswith("_at") else value for name, value in file.items()}  # type: ignore[arg-type]
        for file in services.charge_files.files()
    ]
    return json_response(found, headers={"X-Total-Count": str(len(found))})


@router.post("/charge-files", status_code=201, summary="Make the next charge file", **allow("finance"))
def make_charge_file(services: RequestServices, principal: CurrentPrincipal) -> Response:
    with services.transaction():
        made = services.charge_files.make_file()
        if made is None:
            return Response(status_code=204)
        audit(services, principal, "charge_file.make", made[0])
    return Response(
        made[1], 201, {"X-Sequence": str(made[0]), "Location": f"/api/operations/charge-files/{made[0]}"}, "text/plain"
    )  # fmt: skip


@router.get("/charge-files/{sequence}", summary="The bytes of an earlier charge file", **allow("finance"))
def charge_file(services: RequestServices, sequence: int) -> Response:
    return Response(services.charge_files.file(sequence), media_type="text/plain")


@router.post("/charge-files/acknowledgements", summary=f"Take an answer ({LAYOUT})", **allow("finance"))
def acknowledge(
    body: RawBody, services: RequestServices, principal: CurrentPrincipal, dry_run: bool = False
) -> Response:
    with services.transaction():
        accepted, rejected = services.charge_files.acknowledge(body, dry_run=dry_run)
        if not dry_run:
            audit(
                services,
                principal,
                "charge_file.acknowledge",
                "file",
                None,
                {"accepted": accepted, "rejected": rejected},
            )
    return json_response({"accepted": accepted, "rejected": rejected, "dry_run": dry_run})
