-- Operators' orders to a node: its eligibility, a drain, and the order's number (field gen). The higher number wins.

-- Takes an order; the caller has compared the numbers. old: the node's eligibility, drain and availability; drain: as JSON,
-- or ''; data: of the event.
local function set_order(node, old, eligibility, drain, generation, data)
  call('HSET', P .. ':node:' .. node, 'elig', eligibility, 'drain', drain, 'gen', int(generation))
  enrol(node)
  if old[1] ~= eligibility or old[2] ~= drain then
    if eligibility == 'eligible' then
      publish(now, 'node.uncordoned', node, '', data)
    elseif eligibility == 'cordoned' then
      publish(now, 'node.cordoned', node, '', data)
    else
      publish(now, 'node.draining', node, '', data)
      -- Nothing runs on a node that is down.
      if old[3] == 'down' or call('HLEN', P .. ':held:' .. node) == 0 then
        publish(now, 'node.drained', node, '', '{}')
      end
    end
  end
  wake_line()
end
