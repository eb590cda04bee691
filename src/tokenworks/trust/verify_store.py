"""The auditor's checks of staff and approvals: statements that return the rows that break an invariant."""

from typing import Final

CHECKS: Final[dict[str, str]] = {
    "staff: a token belongs to a staff member, and expires after it was made": """
        SELECT 'staff token ' || t.token_id, format('of %s, from %s to %s', t.staff_id, t.created_at, t.expires_at) FROM staff_token t
            LEFT JOIN staff s USING (staff_id)
        WHERE s.staff_id IS NULL OR t.expires_at < t.created_at OR t.created_at < s.created_at - interval '1 hour' OR t.used_at < t.created_at - interval '1 hour'
            OR s.revoked_at < t.created_at - interval '1 hour'
        UNION ALL
        SELECT 'staff ' || staff_id, format('%s from %s to %s', name, created_at, revoked_at) FROM staff WHERE revoked_at < created_at""",
    "approval: another person decided it after its request, and it was used after that": """
        SELECT 'approval ' || approval_id, format('%s by %s at %s, %s by %s at %s, used at %s', action, asked_by, asked_at, state, decided_by, decided_at, used_at)
        FROM approval
        WHERE (state = 'open') <> (decided_by IS NULL) OR (state = 'open') <> (decided_at IS NULL) OR (state = 'used') <> (used_at IS NOT NULL)
            OR decided_by = asked_by OR decided_at < asked_at OR used_at < decided_at""",
}
