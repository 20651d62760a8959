"""Shopping carts that two replicas change at once, and join without losing either's change."""
from annapy.lattice import ORSet

start = ORSet().add("milk", actor="phone").add("tea", actor="phone")
phone = start.add("bread", actor="phone")
laptop = start.discard("tea").add("jam", actor="laptop")

joined = phone | laptop
print(sorted(joined.value))
print(joined == laptop | phone, joined == joined | phone, phone <= joined, phone <= laptop)
print(ORSet.decode(bytes(joined)) == joined)

# -> ['bread', 'jam', 'milk']
# -> True True True False
# -> True
