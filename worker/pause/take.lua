-- take gives the lease to probe to one process, when a probe is due. Nothing is
-- probed while an operator holds the pool: no call goes upstream then.
-- KEYS     see lib.lua
-- ARGV[2]  {holder, lease (ms), fp, gen, slow (ms), audit_max}
-- Returns  the fencing number of the lease, or 0

if state() == 'closed' or h.op == '1' then return answer(0) end
if num('next') == 0 or now < num('next') or now < num('lease_until') then return answer(0) end
if (h.probe_fp or '') ~= '' and h.probe_fp ~= a.fp then return answer(0) end
set('fence', num('fence') + 1)
set('lease', a.holder)
set('lease_until', now + a.lease)
set('probe_at', now)
return answer(num('fence'))
