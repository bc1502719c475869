-- DeepMind Lab's rooms_collect_good_objects with room and pair of every episode chosen from outside.
--
-- Rules, objects and looks are the engine's own, by the factory of its released levels. The number
-- of an episode, which the Python call reset(episode=number) gives, chooses among CONJUNCTIONS; the
-- observation DARLA.CONJUNCTION says which one is played. envs/deepmind_lab.py has the same list.

local factory = require 'factories.rooms.collect_good_objects_factory'
local tensor = require 'dmlab.system.tensor'

local HAT_CAN = {A = 'hat', B = 'can'}
local CAKE_BALLOON = {A = 'cake', B = 'balloon'}

-- Room A is the map as it is, room B has its walls and floor replaced.
local CONJUNCTIONS = {
    {pickups = HAT_CAN, replaceWallAndFloor = false},
    {pickups = CAKE_BALLOON, replaceWallAndFloor = false},
    {pickups = HAT_CAN, replaceWallAndFloor = true},
    {pickups = CAKE_BALLOON, replaceWallAndFloor = true},
}

-- The factory draws one of its configs for every map: there is one, and it is changed in place.
local config = {}
local number = 0
local api = factory.createLevelApi{episodeLengthSeconds = 60, configs = {config}}

local start = api.start
function api:start(episode, seed)
  number = episode % #CONJUNCTIONS
  for key, value in pairs(CONJUNCTIONS[number + 1]) do
    config[key] = value
  end
  return start(self, episode, seed)
end

local customObservationSpec = api.customObservationSpec
function api:customObservationSpec()
  local specs = customObservationSpec(self)
  specs[#specs + 1] = {name = 'DARLA.CONJUNCTION', type = 'Doubles', shape = {1}}
  return specs
end

local customObservation = api.customObservation
function api:customObservation(name)
  if name == 'DARLA.CONJUNCTION' then
    return tensor.DoubleTensor{number}
  end
  return customObservation(self, name)
end

return api
