-- Load a session and print what is in it, one thing a line, fields separated by tabs.
-- ardour7-lua ardour_list.lua FOLDER NAME
local session = load_session (arg[1], arg[2])
if not session then quit () end
local map = Temporal.TempoMap.read ()

local function row (...)
  local fields = {}
  for _, field in ipairs ({...}) do
    local text = tostring (field):gsub ("[\n\t]", " ")
    table.insert (fields, text)
  end
  print (table.concat (fields, "\t"))
end

local function bar (time) return map:bbt_at (time):str () end
local function number (value) return string.format ("%.9g", value) end

row ("session", session:name (), number (session:nominal_sample_rate ()), number (session:current_end_sample ()))
for route in session:get_routes ():iter () do
  local colour = string.format ("%08x", route:presentation_info_ptr ():color ())
  row ("route", route:name (), route:muted (), number (route:gain_control ():get_value ()), colour, route:comment ())
  local track = route:to_track ()
  if track and not track:isnil () then
    for region in track:playlist ():region_list ():iter () do
      local at = region:position ()
      local later = Temporal.timepos_t (at:samples () + 100)
      row ("region", route:name (), region:name (), bar (at), number (at:samples ()), number (region:length ():samples ()),
           number (map:quarters_per_minute_at (later)),
           map:meter_at (later):divisions_per_bar () .. "/" .. map:meter_at (later):note_value ())
      local notes = region:to_midiregion ()
      if not notes:isnil () then
        for note in ARDOUR.LuaAPI.note_list (notes:model ()):iter () do
          row ("note", region:name (), number (note:note ()), number (note:velocity ()), note:time ():str (), note:length ():str ())
        end
      end
    end
  end
end
for location in session:locations ():list ():iter () do
  local kind = location:is_mark () and "marker" or location:is_auto_loop () and "loop" or "range"
  row (kind, location:name (), bar (location:start ()), bar (location:_end ()))
end
close_session ()
quit ()
